"""A product with a matrix that may be held in fewer bits."""

from minicpm.ops.linear.cpu import Weight, linear

__all__ = ["Weight", "linear"]
