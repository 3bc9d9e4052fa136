"""A product with a matrix that may be held in fewer bits."""

from minicpm.ops.linear.reference import linear

__all__ = ["linear"]
