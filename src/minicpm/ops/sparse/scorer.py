"""What chooses the blocks of queries."""

from typing import NamedTuple

from torch import Tensor


class Scorer(NamedTuple):
    """Queries [T, H, d] and compressed keys [J, Hk, d], both rotated or both not."""

    q: Tensor
    compressed: Tensor
