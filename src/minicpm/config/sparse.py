"""Numbers that follow from an InfLLM-V2 geometry, and what makes one unusable.

Two generations of the published code keep the same budget of blocks in different books. The later one, which
is the default here, chooses `topk + window_size / block_size` blocks at once and forces one local block more
than a window has, so that the window is covered wherever in its block a query stands. With `local_blocks` set
to `window_size / block_size` the chosen set is that of the earlier one.
"""

from collections.abc import Iterator
from dataclasses import replace

from minicpm.config.mixers import GQA, PAGE_TOKENS, InfLLM, Mixer, SparseConfig
from minicpm.config.model import ModelConfig
from minicpm.errors import BadParameter

MODES = ("auto", "on", "off")
"""What `with_sparse` can be asked for."""


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


def dense_positions(sparse: SparseConfig) -> int:
    """Positions below this one attend to all before them: by `dense_len`, or because they may choose all."""
    return max(first_choice(sparse), sparse.dense_len - 1)


def check_mode(mode: str) -> None:
    """Raises BadParameter, listing the known ones, for anything but a mode of `with_sparse`."""
    if mode not in MODES:
        raise BadParameter(f"The sparse mode {mode!r} is not known. Use one of: {', '.join(MODES)}.")


def with_sparse(config: ModelConfig, mode: str) -> ModelConfig:
    """The config with sparse attention in all its grouped-query layers ("on"), in none ("off"), or as it is.

    Where the checkpoint has no geometry of its own "on" takes the published one; no weights belong to it.
    Raises BadParameter for another mode, and for "on" where the model has nothing that can be sparse.
    """
    check_mode(mode)
    if mode == "auto":
        return config
    geometry = (config.sparse or SparseConfig()) if mode == "on" else None
    layers = tuple(replace(layer, mixer=_with_geometry(layer.mixer, geometry)) for layer in config.layers)
    if mode == "on" and not (config.causal and any(isinstance(layer.mixer, InfLLM) for layer in layers)):
        raise BadParameter(
            f"Sparse attention was asked for, but this {config.family} model has no layer of causal "
            "grouped-query attention, the only kind it is defined for. Leave it at auto."
        )
    return replace(config, layers=layers)


def _with_geometry(mixer: Mixer, geometry: SparseConfig | None) -> Mixer:
    match mixer:
        case InfLLM() if geometry is None:
            return mixer.attention
        case GQA() if geometry is not None:
            return InfLLM(mixer, geometry)
    return mixer


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
