"""Policies and engines side by side."""
