"""What plain and packed projections have in common, and where a model keeps them."""

from torch import nn

from minicpm.layers.native_linear import NativeLinear
from minicpm.layers.quant_linear import QuantLinear

Projection = nn.Linear | QuantLinear | NativeLinear


def projections(model: nn.Module, layers: nn.Module) -> dict[str, Projection]:
    """The projections in the `layers` of a model by the names they have in the model."""
    (above,) = [name for name, module in model.named_modules() if module is layers]
    every = layers.named_modules(prefix=above)
    return {name: module for name, module in every if isinstance(module, Projection)}
