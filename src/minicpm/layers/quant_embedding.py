"""An embedding whose matrix is packed, and which may be a head as well."""

from torch import Tensor

from minicpm.layers.quant_linear import QuantLinear
from minicpm.ops.linear.cpu import decode_by_byte
from minicpm.ops.quant_tensor import QuantTensor


class QuantEmbedding(QuantLinear):
    """The rows of a `QuantTensor` [V, D] that token ids name; inference only.

    `state_dict` shows the decoded matrix under the name a plain embedding has.
    """

    def forward(self, ids: Tensor) -> Tensor:
        """ids [T] to [T, D], decoded."""
        flat = ids.flatten()
        rows = QuantTensor(self.codes[flat], self.scales[flat], None, self.scheme)
        return decode_by_byte(rows).unflatten(0, ids.shape)
