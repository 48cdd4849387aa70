"""What runs, and what it reads."""
