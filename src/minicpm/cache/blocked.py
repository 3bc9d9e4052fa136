"""Planes of numbers in the page layouts of the native kernels, read and written by rows like a matrix.

Row page * 64 + i stands for token i of that page, as everywhere in the cache. `native/core/pages.hpp` draws
the layouts.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from minicpm.cache.pages import PAGE
from minicpm.cache.token_store import Rows
from minicpm.ops.native.memory import zeros

_LANES = 16  # tokens side by side in a page of keys


class Plane(ABC):
    """`pages` [P, Hk, rows * d], bfloat16 here; zero at first, so that every number in a page is finite."""

    dtype: ClassVar[torch.dtype] = torch.bfloat16
    together: ClassVar[int] = 2
    """Numbers side by side, for they are multiplied at once."""

    def __init__(
        self, pages: int, kv_heads: int, width: int, rows: int = PAGE, *, device: torch.device
    ) -> None:
        assert device.type == "cpu", f"the kernels read a CPU's memory, not {device}"
        self.pages = zeros((pages, kv_heads, rows * width), self.dtype)
        self._width, self._rows = width, rows

    @abstractmethod
    def read(self, rows: Rows) -> Tensor:
        """Vectors [n, Hk, d] at `rows`, a copy."""

    @abstractmethod
    def write(self, rows: Rows, vectors: Tensor) -> None:
        """Store vectors [n, Hk, d] at `rows`."""

    def grow(self, pages: int) -> None:
        """Make room for `pages` pages in all and keep what is held; the new ones are zero."""
        self.pages = extended(self.pages, pages)

    def copy_page(self, source: int, target: int) -> None:
        """Copy one page to another."""
        self.pages[target] = self.pages[source]

    @property
    def addresses(self) -> tuple[int, int]:
        """Where the pages lie, and their scales, until it grows; 0 where there are none."""
        return self.pages.data_ptr(), 0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.pages.nbytes


class BlockedKeys(Plane):
    """Keys of 16 tokens side by side: a page of a head is [4, d / 2, 16, 2]."""

    def read(self, rows: Rows) -> Tensor:
        """Keys [n, Hk, d] at `rows`, a copy."""
        page, block, lane = self._place(rows)
        return self._blocks()[page, :, block, :, lane].flatten(2)

    def write(self, rows: Rows, vectors: Tensor) -> None:
        """Store keys [n, Hk, d] at `rows`."""
        page, block, lane = self._place(rows)
        numbers = vectors.to(self.dtype).unflatten(2, (-1, self.together))
        self._blocks()[page, :, block, :, lane] = numbers

    def _blocks(self) -> Tensor:
        runs = self._width // self.together
        return self.pages.view(*self.pages.shape[:2], PAGE // _LANES, runs, _LANES, self.together)

    def _place(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        index = as_index(rows, self.pages.device)
        return index // PAGE, index % PAGE // _LANES, index % _LANES


class BlockedValues(Plane):
    """Values of two tokens side by side: a page of a head is [32, d, 2]."""

    def read(self, rows: Rows) -> Tensor:
        """Values [n, Hk, d] at `rows`, a copy."""
        page, run, side = self._place(rows)
        return self._runs()[page, :, run, :, side]

    def write(self, rows: Rows, vectors: Tensor) -> None:
        """Store values [n, Hk, d] at `rows`."""
        page, run, side = self._place(rows)
        self._runs()[page, :, run, :, side] = vectors.to(self.dtype)

    def _runs(self) -> Tensor:
        return self.pages.view(*self.pages.shape[:2], PAGE // self.together, self._width, self.together)

    def _place(self, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        index = as_index(rows, self.pages.device)
        return index // PAGE, index % PAGE // self.together, index % self.together


class BlockedSlots(Plane):
    """Compressed keys, a slot per stride of tokens: a page of a head is [d / 2, slots, 2].

    Row page * slots + i stands for slot i of that page.
    """

    def read(self, rows: Rows) -> Tensor:
        """Compressed keys [n, Hk, d] at `rows`, a copy."""
        index = as_index(rows, self.pages.device)
        return self._pairs()[index // self._rows, :, :, index % self._rows].flatten(2)

    def write(self, rows: Rows, vectors: Tensor) -> None:
        """Store compressed keys [n, Hk, d] at `rows`."""
        index = as_index(rows, self.pages.device)
        pairs = vectors.to(self.dtype).unflatten(2, (-1, 2))
        self._pairs()[index // self._rows, :, :, index % self._rows] = pairs

    def _pairs(self) -> Tensor:
        return self.pages.view(*self.pages.shape[:2], self._width // 2, self._rows, 2)


def as_index(rows: Rows, device: torch.device) -> Tensor:
    """Rows as an index tensor."""
    return torch.arange(rows.start, rows.stop, device=device) if isinstance(rows, slice) else rows


def extended(pages: Tensor, count: int) -> Tensor:
    """A tensor of `count` pages that begins with `pages`, the others zero."""
    larger = zeros((count, *pages.shape[1:]), pages.dtype)
    larger[: len(pages)] = pages
    return larger
