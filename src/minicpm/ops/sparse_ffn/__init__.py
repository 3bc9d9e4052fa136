"""The exact feed-forward of one row that leaves out the neurons whose gate is zero."""

from minicpm.ops.sparse_ffn.cpu import gated_sum

__all__ = ["gated_sum"]
