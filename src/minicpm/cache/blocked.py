"""Planes of numbers in the page layouts of the native kernels, read and written by rows like a matrix.

Row page * 64 + i stands for token i of that page, as everywhere in the cache. `native/core/pages.hpp` draws
the layouts.
"""

import torch
from torch import Tensor

from minicpm.cache.pages import PAGE
from minicpm.cache.token_store import Rows
from minicpm.ops.native.memory import zeros

_LANES = 16  # tokens side by side in a page of keys


class _Plane:
    """bfloat16 `pages` [P, Hk, rows * d]; zero at first, so that every number in a page is finite."""

    def __init__(
        self,
        pages: int,
        kv_heads: int,
        width: int,
        rows: int = PAGE,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        assert device.type == "cpu", f"the kernels read a CPU's memory, not {device}"
        self.pages = zeros((pages, kv_heads, rows * width), dtype)
        self._width, self._rows = width, rows

    def grow(self, pages: int) -> None:
        """Make room for `pages` pages in all and keep what is held; the new ones are zero."""
        larger = zeros((pages, *self.pages.shape[1:]), self.pages.dtype)
        larger[: len(self.pages)] = self.pages
        self.pages = larger

    def copy_page(self, source: int, target: int) -> None:
        """Copy one page to another."""
        self.pages[target] = self.pages[source]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.pages.nbytes


class BlockedKeys(_Plane):
    """Keys of 16 tokens side by side: a page of a head is [4, d / 2, 16, 2]."""

    def read(self, rows: Rows) -> Tensor:
        """Keys [n, Hk, d] at `rows`, a copy."""
        page, block, lane = self._place(rows)
        return self._blocks()[page, :, block, :, lane].flatten(2)

    def write(self, rows: Rows, k: Tensor) -> None:
        """Store keys [n, Hk, d] at `rows`."""
        page, block, lane = self._place(rows)
        self._blocks()[page, :, block, :, lane] = k.to(self.pages.dtype).unflatten(2, (-1, 2))

    def _blocks(self) -> Tensor:
        return self.pages.view(*self.pages.shape[:2], PAGE // _LANES, self._width // 2, _LANES, 2)

    def _place(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        index = as_index(rows, self.pages.device)
        return index // PAGE, index % PAGE // _LANES, index % _LANES


class BlockedValues(_Plane):
    """Values of two tokens side by side: a page of a head is [32, d, 2]."""

    def read(self, rows: Rows) -> Tensor:
        """Values [n, Hk, d] at `rows`, a copy."""
        page, pair, side = self._place(rows)
        return self._pairs()[page, :, pair, :, side]

    def write(self, rows: Rows, v: Tensor) -> None:
        """Store values [n, Hk, d] at `rows`."""
        page, pair, side = self._place(rows)
        self._pairs()[page, :, pair, :, side] = v.to(self.pages.dtype)

    def _pairs(self) -> Tensor:
        return self.pages.view(*self.pages.shape[:2], PAGE // 2, self._width, 2)

    def _place(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        index = as_index(rows, self.pages.device)
        return index // PAGE, index % PAGE // 2, index % 2


class BlockedSlots(_Plane):
    """Compressed keys, a slot per stride of tokens: a page of a head is [d / 2, slots, 2].

    Row page * slots + i stands for slot i of that page.
    """

    def read(self, rows: Rows) -> Tensor:
        """Compressed keys [n, Hk, d] at `rows`, a copy."""
        index = as_index(rows, self.pages.device)
        return self._pairs()[index // self._rows, :, :, index % self._rows].flatten(2)

    def write(self, rows: Rows, keys: Tensor) -> None:
        """Store compressed keys [n, Hk, d] at `rows`."""
        index = as_index(rows, self.pages.device)
        pairs = keys.to(self.pages.dtype).unflatten(2, (-1, 2))
        self._pairs()[index // self._rows, :, :, index % self._rows] = pairs

    def _pairs(self) -> Tensor:
        return self.pages.view(*self.pages.shape[:2], self._width // 2, self._rows, 2)


def as_index(rows: Rows, device: torch.device) -> Tensor:
    """Rows as an index tensor."""
    return torch.arange(rows.start, rows.stop, device=device) if isinstance(rows, slice) else rows
