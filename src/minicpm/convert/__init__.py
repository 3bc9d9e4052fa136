"""Turns one checkpoint into another: quantized, in another format, or for another program."""
