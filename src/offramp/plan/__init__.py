"""From a trace and a budget to what is deployed."""
