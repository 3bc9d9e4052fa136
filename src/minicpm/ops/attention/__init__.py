"""Causal grouped-query attention over packed segments."""
