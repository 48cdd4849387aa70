"""From excess losses on sealed examples to a certificate."""
