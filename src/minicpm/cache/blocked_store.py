"""Keys and values of one layer as the native kernels read them."""

import torch
from torch import Tensor

from minicpm.cache.blocked import BlockedKeys, BlockedSlots, BlockedValues
from minicpm.cache.pages import PAGE
from minicpm.cache.sparse_store import SlotRows
from minicpm.cache.token_store import Rows
from minicpm.config import InfLLM


class BlockedStore:
    """As a TokenStore, in pages of the kernels; what is read is a copy."""

    def __init__(
        self, pages: int, kv_heads: int, head_dim: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.k = BlockedKeys(pages, kv_heads, head_dim, dtype=dtype, device=device)
        self.v = BlockedValues(pages, kv_heads, head_dim, dtype=dtype, device=device)

    def write(self, rows: Rows, k: Tensor, v: Tensor) -> None:
        """Store k and v [T, Hk, d] at `rows`."""
        self.k.write(rows, k)
        self.v.write(rows, v)

    def read(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """K and V [n, Hk, d] at `rows`."""
        return self.k.read(rows), self.v.read(rows)

    def grow(self, pages: int) -> None:
        """Make room for `pages` pages in all and keep what is held."""
        for plane in self.planes:
            plane.grow(pages)

    def copy_page(self, source: int, target: int) -> None:
        """Copy all that belongs to one page to another."""
        for plane in self.planes:
            plane.copy_page(source, target)

    @property
    def planes(self) -> tuple[BlockedKeys | BlockedValues | BlockedSlots, ...]:
        """All that pages hold."""
        return self.k, self.v

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(plane.nbytes for plane in self.planes)


class BlockedSparseStore(BlockedStore, SlotRows):
    """As a SparseStore, in pages of the kernels."""

    def __init__(self, pages: int, mixer: InfLLM, *, dtype: torch.dtype, device: torch.device) -> None:
        BlockedStore.__init__(self, pages, mixer.kv_heads, mixer.head_dim, dtype=dtype, device=device)
        SlotRows.__init__(self, mixer.sparse)
        heads, width, slots = mixer.kv_heads, mixer.head_dim, PAGE // mixer.sparse.kernel_stride
        self.compressed = BlockedSlots(pages, heads, width, slots, dtype=dtype, device=device)
        self.unrotated = (
            BlockedKeys(pages, heads, width, dtype=dtype, device=device) if mixer.scores_unrotated else None
        )

    @property
    def planes(self) -> tuple[BlockedKeys | BlockedValues | BlockedSlots, ...]:
        """All that pages hold."""
        more = () if self.unrotated is None else (self.unrotated,)
        return self.k, self.v, self.compressed, *more

    def write_unrotated(self, rows: Rows, k: Tensor) -> None:
        """Store keys before rotation [T, Hk, d] at `rows`, in a store that keeps them."""
        assert self.unrotated is not None, "this store keeps rotated keys only"
        self.unrotated.write(rows, k)

    def _choosing_keys(self, rows: Rows) -> Tensor:
        return (self.k if self.unrotated is None else self.unrotated).read(rows)

    def _write_compressed(self, slots: Rows, keys: Tensor) -> None:
        self.compressed.write(slots, keys)

    def _read_compressed(self, slots: Rows) -> Tensor:
        return self.compressed.read(slots)
