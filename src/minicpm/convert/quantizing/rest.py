"""Everything of a model outside its layers: the head, rounded or not, and what stays as it is."""

from collections.abc import Mapping

import torch

from minicpm.convert.quantizing.parts import Source
from minicpm.convert.quantizing.rounded import RoundedLayer
from minicpm.ops.quant_tensor import decode
from minicpm.quant.grid import Grid
from minicpm.quant.hessian import relative_error
from minicpm.quant.rounding import round_to


@torch.no_grad()
def round_rest(source: Source, grids: Mapping[str, Grid]) -> RoundedLayer:
    """Weights outside the layers; the head to its nearest codes, as loading rounds it."""
    result = RoundedLayer()
    for name, _ in source.model.named_parameters():
        if name.startswith(f"{source.layers}."):
            continue
        module, weight = name.removesuffix(".weight"), source.read(name)
        if (grid := grids.get(module)) is None:
            result.plain[name] = weight
            continue
        packed = round_to(weight.to(source.dtype), grid.bits, grid.group)
        result.packed[module] = packed
        result.errors[module] = relative_error(weight.float(), decode(packed).float(), None)
    return result
