"""Computes on tensors: a folder per operator, the slow reference first."""
