"""Owns parameters; calls operators and the cache."""
