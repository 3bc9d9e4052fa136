"""Numbers that follow from an InfLLM-V2 geometry, and what makes one unusable.

Two generations of the published code keep the same budget of blocks in different books. The later one, which
is the default here, chooses `topk + window_size / block_size` blocks at once and forces one local block more
than a window has, so that the window is covered wherever in its block a query stands. With `local_blocks` set
to `window_size / block_size` the chosen set is that of the earlier one.
"""

from collections.abc import Iterator

from minicpm.config.mixers import PAGE_TOKENS, SparseConfig


def chosen_blocks(sparse: SparseConfig) -> int:
    """The most blocks a query attends to, forced ones included."""
    return sparse.topk + sparse.window_size // sparse.block_size


def local_blocks(sparse: SparseConfig) -> int:
    """Blocks that are always attended to, counted back from the query's own."""
    if sparse.local_blocks is not None:
        return sparse.local_blocks
    return sparse.window_size // sparse.block_size + 1


def visible_kernels(position: int, sparse: SparseConfig) -> int:
    """Compressed keys whose last token is not after `position`."""
    return max(0, (position + 1 - sparse.kernel_size) // sparse.kernel_stride + 1)


def first_choice(sparse: SparseConfig) -> int:
    """The first position with more blocks behind it than it may choose; before it attention is dense."""
    return chosen_blocks(sparse) * sparse.block_size


def sparse_problems(sparse: SparseConfig) -> Iterator[str]:
    """What makes this geometry unusable, one text per problem."""
    kernel, stride, block = sparse.kernel_size, sparse.kernel_stride, sparse.block_size
    if block != PAGE_TOKENS:
        yield f"block_size is {block}, where {PAGE_TOKENS} is needed, because blocks are pages of the cache"
    if kernel % stride:
        yield f"kernel_size {kernel} is not a multiple of kernel_stride {stride}"
    if block % stride:
        yield f"block_size {block} is not a multiple of kernel_stride {stride}"
    if sparse.window_size % block:
        yield f"window_size {sparse.window_size} is not a multiple of block_size {block}"
    if local_blocks(sparse) < 1:
        yield "local_blocks is 0, where a query's own block at least is needed"
    forced, budget = sparse.init_blocks + local_blocks(sparse), chosen_blocks(sparse)
    if forced > budget:
        yield (
            f"init_blocks {sparse.init_blocks} and {local_blocks(sparse)} local blocks are always attended "
            f"to, but only topk + window_size / block_size = {budget} blocks may be"
        )
