"""Grouped-query attention over packed segments, causal or over the whole of each."""
