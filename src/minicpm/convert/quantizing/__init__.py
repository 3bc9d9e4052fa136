"""Quantizes a checkpoint layer by layer, with a calibration text, into a folder of packed matrices.

`driver.quantize` is the whole; a layer's work is in `layer`, what is kept between runs in `work`.
"""
