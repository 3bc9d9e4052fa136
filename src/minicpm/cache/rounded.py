"""Keys and values in 8 bits, in the page layouts of the native kernels.

A number is code * scale, with a float32 scale per token and head: 1/127 of the largest of the head's numbers.
So each is off by half a scale at most.
"""

from abc import ABC
from typing import ClassVar

import torch
from torch import Tensor

from minicpm.cache.blocked import BlockedKeys, BlockedValues, Plane, as_index, extended
from minicpm.cache.pages import PAGE
from minicpm.cache.token_store import Rows
from minicpm.ops.native.memory import zeros

_MOST = 127.0


class RoundedPlane(Plane, ABC):
    """Over a plane that reads and writes codes: `pages` int8, and `scales` [P, Hk, 64] float32."""

    dtype: ClassVar[torch.dtype] = torch.int8
    together: ClassVar[int] = 1

    def __init__(
        self, pages: int, kv_heads: int, width: int, rows: int = PAGE, *, device: torch.device
    ) -> None:
        super().__init__(pages, kv_heads, width, rows, device=device)
        self.scales = zeros((pages, kv_heads, rows), torch.float32)

    def read(self, rows: Rows) -> Tensor:
        """What the codes at `rows` stand for, float32 [n, Hk, d]."""
        return super().read(rows) * self._scales_at(rows)

    def write(self, rows: Rows, vectors: Tensor) -> None:
        """Round and store vectors [n, Hk, d] at `rows`."""
        codes, scales = rounded(vectors)
        super().write(rows, codes)
        index = as_index(rows, self.scales.device)
        self.scales[index // PAGE, :, index % PAGE] = scales

    def _scales_at(self, rows: Rows) -> Tensor:
        index = as_index(rows, self.scales.device)
        return self.scales[index // PAGE, :, index % PAGE][..., None]

    def grow(self, pages: int) -> None:
        """Make room for `pages` pages in all and keep what is held; the new ones are zero."""
        super().grow(pages)
        self.scales = extended(self.scales, pages)

    def copy_page(self, source: int, target: int) -> None:
        """Copy one page to another."""
        super().copy_page(source, target)
        self.scales[target] = self.scales[source]

    @property
    def addresses(self) -> tuple[int, int]:
        """Where the codes lie, and their scales, until it grows."""
        return self.pages.data_ptr(), self.scales.data_ptr()

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.pages.nbytes + self.scales.nbytes


class RoundedKeys(RoundedPlane, BlockedKeys):
    """Codes of 16 tokens side by side: a page of a head is [4, d, 16]."""


class RoundedValues(RoundedPlane, BlockedValues):
    """Codes of one token after another: a page of a head is [64, d]."""


def rounded(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [.., d] int8 and scales [..] float32 of vectors [.., d], the same that the kernels make.

    An instruction set that multiplies and rounds at once (AVX2, NEON) may take the other of two codes for a
    number that lies halfway between them.
    """
    numbers = vectors.to(torch.float32)
    most = numbers.abs().amax(dim=-1, keepdim=True)
    # Not 127 / most, which torch takes for 127 * (1 / most).
    inverse = torch.where(most > 0, torch.full_like(most, _MOST) / most, 0.0)
    return torch.round(numbers * inverse).to(torch.int8), (most / _MOST)[..., 0]
