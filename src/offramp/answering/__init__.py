"""How stages answer: alone, refitted, or together."""
