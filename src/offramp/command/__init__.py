"""What the command line is made of: options, tables, answers, the demo."""
