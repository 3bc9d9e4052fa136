"""Causal attention over latents, from which every head makes its own keys and values."""
