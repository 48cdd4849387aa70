"""Stages, costs, traces, and the one loop that walks them."""
