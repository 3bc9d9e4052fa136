"""Keys and values of one layer, one row per cached token."""

import torch
from torch import Tensor

from minicpm.cache.pages import PAGE

Rows = slice | Tensor


def grown(rows: Tensor, count: int) -> Tensor:
    """A tensor of `count` rows that begins with `rows`, the others not initialised."""
    larger = rows.new_empty((count, *rows.shape[1:]))
    larger[: len(rows)] = rows
    return larger


class TokenStore:
    """K and V of shape [pages * 64, Hk, d]; row page * 64 + i holds token i of that page."""

    def __init__(
        self, pages: int, kv_heads: int, head_dim: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (pages * PAGE, kv_heads, head_dim)
        self.k = torch.empty(shape, dtype=dtype, device=device)
        self.v = torch.empty(shape, dtype=dtype, device=device)

    def write(self, rows: Rows, k: Tensor, v: Tensor) -> None:
        """Store k and v [T, Hk, d] at `rows`."""
        self.k[rows] = k.to(self.k.dtype)
        self.v[rows] = v.to(self.v.dtype)

    def read(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """K and V [n, Hk, d] at `rows`: views for a slice, copies for an index."""
        return self.k[rows], self.v[rows]

    def grow(self, pages: int) -> None:
        """Make room for `pages` pages in all and keep what is held."""
        self.k, self.v = (grown(store, pages * PAGE) for store in (self.k, self.v))

    def copy_page(self, source: int, target: int) -> None:
        """Copy all rows of one page to another."""
        for store in (self.k, self.v):
            store[target * PAGE : (target + 1) * PAGE] = store[source * PAGE : (source + 1) * PAGE]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.k.nbytes + self.v.nbytes
