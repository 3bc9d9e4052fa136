"""Whole-model state of many sequences over shared pages."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch

from minicpm.cache.batch import Segment
from minicpm.cache.pages import PAGE, PagePool
from minicpm.cache.store import SequenceStore, Store
from minicpm.cache.token_store import Rows


@dataclass(slots=True)
class _Pages:
    """The page table of one sequence, as C integers, and how many tokens it holds."""

    pages: "array[int]" = field(default_factory=lambda: array("i"))
    length: int = 0


@dataclass(frozen=True)
class CachePlan:
    """Where one forward writes, and per segment which rows it then reads (its own included).

    `tables` are the pages of each segment's sequence, int32, first to last; they are the cache's own.
    """

    segments: tuple[Segment, ...]
    tables: "tuple[array[int], ...]"
    device: torch.device

    @cached_property
    def write(self) -> Rows:
        """Rows of all new tokens."""
        return _join(
            [self._rows(i, s.start, s.start + s.count) for i, s in enumerate(self.segments)], self.device
        )

    @cached_property
    def reads(self) -> tuple[Rows, ...]:
        """Per segment the rows of its sequence from its first token on."""
        return tuple(self._rows(i, 0, s.start + s.count) for i, s in enumerate(self.segments))

    def _rows(self, index: int, start: int, stop: int) -> Rows:
        if start == stop:
            return slice(0, 0)
        pages = self.tables[index][start // PAGE : -(-stop // PAGE)]
        first = pages[0] * PAGE + start % PAGE
        if all(b == a + 1 for a, b in pairwise(pages)):
            return slice(first, first + stop - start)
        base = torch.tensor(pages, device=self.device).repeat_interleave(PAGE) * PAGE
        within = torch.arange(PAGE, device=self.device).repeat(len(pages))
        return (base + within)[start % PAGE : start % PAGE + stop - start]


class Cache:
    """Sequences over a pool of pages; a page is shared by reference until someone writes to it.

    Not thread-safe. A handle dies with `close`.
    """

    PAGE = PAGE

    def __init__(self, stores: Sequence[Store], pages: int, *, device: torch.device) -> None:
        self.stores = tuple(stores)
        self._sequence_stores = [store for store in self.stores if isinstance(store, SequenceStore)]
        self._pool = PagePool(pages)
        self._device = device
        self._table: dict[int, _Pages] = {}
        self._next_handle = 0

    @property
    def total_pages(self) -> int:
        """Pages in all."""
        return self._pool.total

    @property
    def free_pages(self) -> int:
        """Pages no sequence holds."""
        return self._pool.free

    @property
    def nbytes(self) -> int:
        """Bytes of all stores."""
        return sum(store.nbytes for store in self.stores)

    def open(self) -> int:
        """A new empty sequence."""
        self._next_handle += 1
        self._table[self._next_handle] = _Pages()
        for store in self._sequence_stores:
            store.opened(self._next_handle)
        return self._next_handle

    def close(self, seq: int) -> None:
        """Forget a sequence and release its pages."""
        for page in self._table.pop(seq).pages:
            self._pool.drop(page)
        for store in self._sequence_stores:
            store.closed(seq)

    def length(self, seq: int) -> int:
        """Tokens held."""
        return self._table[seq].length

    def pages_needed(self, seq: int, n: int) -> int:
        """Free pages that `reserve(seq, n)` would take."""
        entry = self._table[seq]
        new = -(-(entry.length + n) // PAGE) - len(entry.pages)
        return max(new, 0) + (n > 0 and self._writes_to_shared(entry))

    def reserve(self, seq: int, n: int) -> bool:
        """Make room for n more tokens; False, and nothing changed, when pages are short."""
        if self.pages_needed(seq, n) > self._pool.free:
            return False
        entry = self._table[seq]
        if n > 0 and self._writes_to_shared(entry):
            self._unshare(entry, entry.length // PAGE)
        while len(entry.pages) * PAGE < entry.length + n:
            entry.pages.append(self._pool.take(after=entry.pages[-1] if entry.pages else None))
        return True

    def grow(self, pages: int) -> None:
        """Hold `pages` pages in all, no fewer than before; every sequence stays as it is."""
        self._pool.grow(pages)
        for store in self.stores:
            store.grow(pages)

    def rewind(self, seq: int, n: int) -> int:
        """Drop back to at most n tokens, giving up reserved room; returns the length reached.

        That is less than n where a layer can only go back further; feed the tokens in between again.
        """
        entry = self._table[seq]
        if n < entry.length:
            entry.length = self.reachable(seq, n)
            for store in self._sequence_stores:
                store.rewound(seq, entry.length)
        keep = -(-entry.length // PAGE)
        for page in entry.pages[keep:]:
            self._pool.drop(page)
        del entry.pages[keep:]
        return entry.length

    def fork(self, seq: int, n: int) -> int:
        """A new sequence with the first n tokens of `seq`, its pages shared.

        Its length is less than n where a layer can only give back fewer.
        """
        entry = self._table[seq]
        assert 0 <= n <= entry.length, f"cannot fork {n} tokens of a sequence that holds {entry.length}"
        n = self.reachable(seq, n)
        pages = entry.pages[: -(-n // PAGE)]
        for page in pages:
            self._pool.share(page)
        copy = self.open()
        self._table[copy] = _Pages(pages, n)
        for store in self._sequence_stores:
            store.forked(seq, copy, n)
        return copy

    def reachable(self, seq: int, n: int) -> int:
        """The largest length up to n at which every layer can continue the sequence."""
        while (reached := min((s.reachable(seq, n) for s in self._sequence_stores), default=n)) < n:
            n = reached
        return n

    def plan(self, segments: Sequence[Segment]) -> CachePlan:
        """Rows to write and read for `segments`, each within the room reserved at its sequence's end."""
        return CachePlan(tuple(segments), tuple(self._pages_of(s) for s in segments), self._device)

    def commit(self, segments: Sequence[Segment]) -> None:
        """Count the tokens a forward has written."""
        for segment in segments:
            assert segment.seq is not None
            self._table[segment.seq].length += segment.count

    def _pages_of(self, segment: Segment) -> "array[int]":
        assert segment.seq is not None, "a batch with a cache needs a sequence for every segment"
        entry = self._table[segment.seq]
        assert segment.start == entry.length, (
            f"segment starts at {segment.start}, the sequence holds {entry.length}"
        )
        assert segment.start + segment.count <= len(entry.pages) * PAGE, (
            f"no room was reserved for {segment.count} tokens"
        )
        return entry.pages

    def _writes_to_shared(self, entry: _Pages) -> bool:
        index = entry.length // PAGE
        return index < len(entry.pages) and self._pool.is_shared(entry.pages[index])

    def _unshare(self, entry: _Pages, index: int) -> None:
        shared = entry.pages[index]
        own = self._pool.take(after=entry.pages[index - 1] if index else None)
        for store in self.stores:
            store.copy_page(shared, own)
        self._pool.drop(shared)
        entry.pages[index] = own


def _join(rows: list[Rows], device: torch.device) -> Rows:
    if len(rows) == 1:
        return rows[0]
    return torch.cat([_as_index(r, device) for r in rows])


def _as_index(rows: Rows, device: torch.device) -> torch.Tensor:
    return torch.arange(rows.start, rows.stop, device=device) if isinstance(rows, slice) else rows
