"""A projection whose weight is packed."""

from typing import Any

from torch import Tensor, nn

from minicpm.ops.linear import linear
from minicpm.ops.linear.cpu import decode_by_byte
from minicpm.ops.quant_tensor import QuantTensor


class QuantLinear(nn.Module):
    """y = W x without a bias, W [O, I] a `QuantTensor`; inference only.

    `state_dict` shows the decoded matrix under the name a plain projection has, so that a saved model is the
    published one. It cannot be loaded into.
    """

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None
    offsets: Tensor | None

    def __init__(self, weight: QuantTensor) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.scheme, self.result = weight.scheme, weight.result
        for name in ("codes", "scales", "zeros", "offsets"):
            self.register_buffer(name, getattr(weight, name), persistent=False)

    @property
    def packed(self) -> QuantTensor:
        """The weight as it is held."""
        return QuantTensor(self.codes, self.scales, self.zeros, self.scheme, self.offsets, self.result)

    @property
    def weight(self) -> Tensor:
        """The weight decoded, [O, I]."""
        return decode_by_byte(self.packed)

    def hold(self, weight: QuantTensor) -> None:
        """Hold this one instead, of the same shape and dtype."""
        assert (weight.shape, weight.dtype) == (self.packed.shape, self.packed.dtype)
        self.scheme, self.result = weight.scheme, weight.result
        self.codes, self.scales = weight.codes, weight.scales
        self.zeros, self.offsets = weight.zeros, weight.offsets

    def forward(self, x: Tensor) -> Tensor:
        """x [..., I] to [..., O]."""
        return linear(x, self.packed)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.weight
