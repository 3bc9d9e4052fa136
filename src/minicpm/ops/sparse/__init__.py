"""Block-sparse attention chosen by compressed keys: InfLLM-V2 (arXiv 2509.24663; MiniCPM4, arXiv 2506.07900).

Queries of a group share one choice. They score compressed keys (means of overlapping windows of keys, called
kernels), a block's score is the largest of the kernels that touch it, and attention runs over the best
blocks. The choice has no gradient; attention over what was chosen has.

Shapes: T queries, the last of n positions; H query heads, Hk key/value heads; d the width of a head; J
compressed keys; blocks = ceil(n / block_size).
"""

from minicpm.ops.sparse.scorer import Scorer

__all__ = ["Scorer"]
