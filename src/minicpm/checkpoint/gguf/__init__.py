"""GGUF, the one-file format of llama.cpp: its container, its blocks of weights, its names and metadata."""
