"""A part of a model whose matrices were rounded."""

from dataclasses import dataclass, field

from torch import Tensor

from minicpm.ops.quant_tensor import QuantTensor


@dataclass(slots=True, eq=False)
class RoundedLayer:
    """Packed matrices by the name of their module, how far off each is, and all other weights by name.

    An error is that of the outputs over the calibration text, relative to them; without one, that of the
    matrix.
    """

    packed: dict[str, QuantTensor] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    plain: dict[str, Tensor] = field(default_factory=dict)
