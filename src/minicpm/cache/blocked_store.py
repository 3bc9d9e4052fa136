"""Keys and values of one layer as the native kernels read them."""

from typing import Any

import torch
from torch import Tensor

from minicpm.cache.blocked import BlockedSlots, Plane
from minicpm.cache.page_format import BFLOAT16_PAGES, PageFormat
from minicpm.cache.pages import PAGE
from minicpm.cache.sparse_store import SlotRows
from minicpm.cache.token_store import Rows
from minicpm.config import InfLLM
from minicpm.ops.native import required


class BlockedStore:
    """As a TokenStore, in pages of the kernels; what is read is a copy."""

    def __init__(
        self,
        pages: int,
        kv_heads: int,
        head_dim: int,
        *,
        held: PageFormat = BFLOAT16_PAGES,
        device: torch.device,
    ) -> None:
        self.k = held.keys(pages, kv_heads, head_dim, device=device)
        self.v = held.values(pages, kv_heads, head_dim, device=device)
        self._held, self._shape = held, (kv_heads, head_dim)
        self._handle: Any = None

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
        self._handle = None

    def copy_page(self, source: int, target: int) -> None:
        """Copy all that belongs to one page to another."""
        for plane in self.planes:
            plane.copy_page(source, target)

    @property
    def handle(self) -> Any:
        """What the kernels know of the pages: where they lie, until the store grows."""
        if self._handle is None:
            (k, k_scales), (v, v_scales) = self.k.addresses, self.v.addresses
            unrotated, unrotated_scales = (0, 0) if self.unrotated is None else self.unrotated.addresses
            self._handle = required().KvPages(
                self._held.number,
                *self._shape,
                k,
                v,
                k_scales=k_scales,
                v_scales=v_scales,
                unrotated=unrotated,
                unrotated_scales=unrotated_scales,
            )
        return self._handle

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_handle": None}  # the pages of a copy lie elsewhere

    @property
    def unrotated(self) -> Plane | None:
        """Keys before rotation, where they are kept."""
        return None

    @property
    def compressed_address(self) -> int:
        """Where compressed keys lie, until the store grows; 0 where there are none."""
        return 0

    @property
    def planes(self) -> tuple[Plane, ...]:
        """All that pages hold."""
        return self.k, self.v

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(plane.nbytes for plane in self.planes)


class BlockedSparseStore(BlockedStore, SlotRows):
    """As a SparseStore, in pages of the kernels; compressed keys are bfloat16 whatever keys are held as."""

    def __init__(
        self, pages: int, mixer: InfLLM, *, held: PageFormat = BFLOAT16_PAGES, device: torch.device
    ) -> None:
        BlockedStore.__init__(self, pages, mixer.kv_heads, mixer.head_dim, held=held, device=device)
        SlotRows.__init__(self, mixer.sparse)
        heads, width, slots = mixer.kv_heads, mixer.head_dim, PAGE // mixer.sparse.kernel_stride
        self.compressed = BlockedSlots(pages, heads, width, slots, device=device)
        self._unrotated = held.keys(pages, heads, width, device=device) if mixer.scores_unrotated else None

    @property
    def unrotated(self) -> Plane | None:
        """Keys before rotation, where they choose."""
        return self._unrotated

    @property
    def compressed_address(self) -> int:
        """Where compressed keys lie, until the store grows."""
        return self.compressed.addresses[0]

    @property
    def planes(self) -> tuple[Plane, ...]:
        """All that pages hold."""
        more = () if self._unrotated is None else (self._unrotated,)
        return self.k, self.v, self.compressed, *more

    def write_unrotated(self, rows: Rows, k: Tensor) -> None:
        """Store keys before rotation [T, Hk, d] at `rows`, in a store that keeps them."""
        assert self._unrotated is not None, "this store keeps rotated keys only"
        self._unrotated.write(rows, k)

    def _choosing_keys(self, rows: Rows) -> Tensor:
        return (self.k if self._unrotated is None else self._unrotated).read(rows)

    def _write_compressed(self, slots: Rows, keys: Tensor) -> None:
        self.compressed.write(slots, keys)

    def _read_compressed(self, slots: Rows) -> Tensor:
        return self.compressed.read(slots)
