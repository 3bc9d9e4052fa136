"""Turns images into token vectors: towers of transformer blocks, and the resampler after them."""
