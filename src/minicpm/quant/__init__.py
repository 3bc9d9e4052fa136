"""Encodes and decodes weights; knows no file and no checkpoint.

`ternary` recognises, packs and makes matrices of {-s, 0, s}; `packing` turns the projections of a loaded
model into packed ones.
"""
