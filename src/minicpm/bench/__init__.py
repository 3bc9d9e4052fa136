"""Measures how fast a model is, beside what this machine could do at most."""
