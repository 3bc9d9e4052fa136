"""What quantizing takes of memory, and a refusal where that is not there."""

from collections.abc import Mapping

from minicpm.checkpoint.available import memory_limits, tightest
from minicpm.convert.quantizing.flow import Flow
from minicpm.convert.quantizing.parts import Source
from minicpm.errors import CapacityError
from minicpm.quant.grid import Grid
from minicpm.quant.methods import Method

_COPIES = 6
"""Of the largest matrix in float32, while it is rounded: what is left of it, codes, errors and products."""


def needed_bytes(source: Source, method: Method, grids: Mapping[str, Grid], tokens: int) -> int:
    """About the most that is held at once: a float32 layer, moments, hidden states, what rounding takes."""
    blocks = source.model.model.layers
    layer = max(sum(4 * weight.numel() for weight in block.parameters()) for block in blocks)
    shapes = [(grid, source.model.get_parameter(f"{name}.weight").shape) for name, grid in grids.items()]
    inner = [shape for name, (_, shape) in zip(grids, shapes, strict=True) if name.startswith(source.layers)]
    largest = max((4 * shape[0] * shape[1] for shape in inner), default=0)
    widths = [4 * shape[1] ** 2 for shape in inner]
    # Inverting takes two more of the widest; scaling looks at all of a layer at once.
    seen = 0
    if tokens:
        seen = 3 * max(widths, default=0)
        seen += 0 if method.scaling is None else sum(widths) // len(blocks)
    embedding = source.config.vocab * source.config.hidden * source.dtype.itemsize
    hidden = Flow.nbytes(source.config, tokens)
    return hidden + max(embedding, layer + seen + _COPIES * largest)


def require_memory(source: Source, method: Method, grids: Mapping[str, Grid], tokens: int) -> None:
    """Raise CapacityError, with the numbers, where less is free."""
    needed, limit = needed_bytes(source, method, grids, tokens), tightest(memory_limits())
    if limit is None or needed <= limit.free_bytes:
        return
    hidden = Flow.nbytes(source.config, tokens)
    raise CapacityError(
        f"Quantizing this model takes about {needed / 2**30:.1f} GiB: one layer in float32 with what is "
        f"known of its inputs, and {hidden / 2**30:.1f} GiB for the hidden states of {tokens:,} calibration "
        "tokens. "
        f"{limit.name.capitalize()} leaves {limit.free_bytes / 2**30:.1f} GiB. Give fewer tokens, another "
        "method (rtn needs no text), or end other programs."
    )
