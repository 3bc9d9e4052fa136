"""What plain and packed projections have in common, and where a model keeps them."""

from torch import nn

from minicpm.layers.quant_linear import QuantLinear

Projection = nn.Linear | QuantLinear


def projections(model: nn.Module) -> dict[str, Projection]:
    """The projections of all layers by their published names."""
    layers = {name: m for name, m in model.named_modules() if name.startswith("model.layers.")}
    return {name: module for name, module in layers.items() if isinstance(module, Projection)}
