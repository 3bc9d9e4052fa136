"""An embedding whose matrix is packed, and which may be a head as well."""

from torch import Tensor

from minicpm.layers.quant_linear import QuantLinear
from minicpm.ops.linear.cpu import decode_by_byte


class QuantEmbedding(QuantLinear):
    """The rows of a `QuantTensor` [V, D] that token ids name; inference only.

    `state_dict` shows the decoded matrix under the name a plain embedding has.
    """

    def forward(self, ids: Tensor) -> Tensor:
        """ids [T] to [T, D], decoded."""
        flat = ids.flatten()
        rows = self.packed.each(lambda part: part[flat])
        return decode_by_byte(rows).unflatten(0, ids.shape)
