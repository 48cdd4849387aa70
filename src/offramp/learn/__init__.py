"""What decides, who takes part, and what a request takes."""
