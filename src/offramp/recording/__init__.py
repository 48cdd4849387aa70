"""From networks and examples to a trace with measured costs."""
