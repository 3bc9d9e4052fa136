"""Keys and values of one layer with the compressed keys that choose among their blocks."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from minicpm.cache.pages import PAGE
from minicpm.cache.token_store import Rows, TokenStore, grown
from minicpm.config import InfLLM, SparseConfig

Compress = Callable[[Tensor], Tensor]


class SlotRows(ABC):
    """Where compressed keys lie: one slot per stride of tokens.

        tokens    0 ...... s ...... 2s ..... 3s ..... 4s     s = kernel_stride; here kernel_size = 2 s
        keys      '--- 0 ---------'
                           '--- 1 ---------'
                                    '--- 2 ---------'
        slots     |   -    |   0    |   1    |   2    |

    A compressed key lies in the slot, and so in the page, of the last token of its window. It is made when
    that token is written and depends on nothing later, so rewinding, forking and sharing pages are exact.
    """

    def __init__(self, sparse: SparseConfig) -> None:
        self._stride = sparse.kernel_stride
        self._before = sparse.kernel_size // self._stride - 1  # slots before a sequence's first key

    def complete(self, rows: Rows, start: int, compress: Compress) -> None:
        """Make the compressed keys whose windows end at position `start` or later.

        `rows` hold a sequence from its first token to its last, all written; `compress` turns keys
        [n, Hk, d] into compressed keys [J, Hk, d].
        """
        stop = _length(rows) // self._stride
        first = max(start // self._stride, self._before)
        if first >= stop:
            return
        window = _part(rows, (first - self._before) * self._stride, stop * self._stride)
        self._write_compressed(self._slots(rows, first, stop), compress(self._choosing_keys(window)))

    def read_compressed(self, rows: Rows) -> Tensor:
        """Compressed keys [J, Hk, d] of the sequence at `rows`."""
        return self._read_compressed(self._slots(rows, self._before, _length(rows) // self._stride))

    @abstractmethod
    def _choosing_keys(self, rows: Rows) -> Tensor:
        """The keys that are compressed, [n, Hk, d]."""

    @abstractmethod
    def _write_compressed(self, slots: Rows, keys: Tensor) -> None: ...

    @abstractmethod
    def _read_compressed(self, slots: Rows) -> Tensor: ...

    def _slots(self, rows: Rows, first: int, stop: int) -> Rows:
        """Rows of slots first .. stop - 1 of the sequence whose tokens lie at `rows`."""
        if first >= stop:
            return slice(0, 0)
        if isinstance(rows, slice):
            page = rows.start // self._stride
            return slice(page + first, page + stop)
        return rows[first * self._stride : stop * self._stride : self._stride] // self._stride


class SparseStore(TokenStore, SlotRows):
    """A TokenStore whose pages also hold compressed keys.

    They take 1 / (2 s) of the memory of keys and values. Where blocks are chosen by unrotated keys these are
    kept for every token, half as much again, so that a window can be made anew after any rewind.
    """

    def __init__(self, pages: int, mixer: InfLLM, *, dtype: torch.dtype, device: torch.device) -> None:
        TokenStore.__init__(self, pages, mixer.kv_heads, mixer.head_dim, dtype=dtype, device=device)
        SlotRows.__init__(self, mixer.sparse)
        shape = (pages * (PAGE // self._stride), mixer.kv_heads, mixer.head_dim)
        self.compressed = torch.empty(shape, dtype=dtype, device=device)
        self.unrotated = torch.empty_like(self.k) if mixer.scores_unrotated else None

    def write_unrotated(self, rows: Rows, k: Tensor) -> None:
        """Store keys before rotation [T, Hk, d] at `rows`, in a store that keeps them."""
        assert self.unrotated is not None, "this store keeps rotated keys only"
        self.unrotated[rows] = k.to(self.unrotated.dtype)

    def _choosing_keys(self, rows: Rows) -> Tensor:
        return (self.k if self.unrotated is None else self.unrotated)[rows]

    def _write_compressed(self, slots: Rows, keys: Tensor) -> None:
        self.compressed[slots] = keys.to(self.compressed.dtype)

    def _read_compressed(self, slots: Rows) -> Tensor:
        return self.compressed[slots]

    def grow(self, pages: int) -> None:
        """Make room for `pages` pages in all and keep what is held."""
        super().grow(pages)
        self.compressed = grown(self.compressed, pages * (PAGE // self._stride))
        if self.unrotated is not None:
            self.unrotated = grown(self.unrotated, pages * PAGE)

    def copy_page(self, source: int, target: int) -> None:
        """Copy all that belongs to one page to another."""
        super().copy_page(source, target)
        rows = [(self.compressed, PAGE // self._stride)]
        rows += [(self.unrotated, PAGE)] if self.unrotated is not None else []
        for store, count in rows:
            store[target * count : (target + 1) * count] = store[source * count : (source + 1) * count]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        unrotated = 0 if self.unrotated is None else self.unrotated.nbytes
        return super().nbytes + self.compressed.nbytes + unrotated


def _length(rows: Rows) -> int:
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def _part(rows: Rows, first: int, stop: int) -> Rows:
    """Rows of tokens first .. stop - 1."""
    return slice(rows.start + first, rows.start + stop) if isinstance(rows, slice) else rows[first:stop]
