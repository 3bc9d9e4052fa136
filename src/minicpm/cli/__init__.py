"""Parses a command line, calls one function of the package, and prints what came of it."""
