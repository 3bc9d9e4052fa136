"""Remembers finished sequences while pages are free, so that a new one can fork what they share."""

from array import array
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from minicpm.engine.pool import Pool

MIN_SHARED = 8
"""A shorter match (often just the BOS) is not worth copying a page."""
MAX_HOLDERS = 256
"""Bounds the time of one lookup."""


class _Held(NamedTuple):
    """Tokens in the cache, and the adapter that computed them, if any."""

    tokens: "array[int]"
    adapter: str | None


class Match(NamedTuple):
    """A cached sequence whose first `shared` tokens equal those asked for and can be given back."""

    handle: int
    shared: int


def common_prefix(a: "array[int]", b: "array[int]") -> int:
    """Number of equal leading tokens, by bisection over C-speed comparisons."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class PrefixIndex:
    """Finished sequences by handle, least recently used first. Tokens are compared, never hashes.

    What one adapter computed is nothing to another. A sequence is dropped for one that contains it, unless a
    layer of that one cannot go back so far. The index owns the handles it holds: `evict` and `clear`
    close them. With enabled=False it holds nothing.
    """

    def __init__(self, pool: Pool, *, enabled: bool = True, max_holders: int = MAX_HOLDERS) -> None:
        self.enabled = enabled
        self._pool = pool
        self._max_holders = max_holders
        self._held: OrderedDict[int, _Held] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def keep(self, handle: int, tokens: "array[int]", adapter: str | None = None) -> None:
        """Takes over a finished sequence's handle; tokens are those in the cache."""
        if not self.enabled or len(tokens) < MIN_SHARED:
            self._pool.close(handle)
            return
        common = {h: common_prefix(held, tokens) for h, held in self._of(adapter)}
        whole = [h for h, n in common.items() if n == len(tokens) == self._pool.reachable(h, n)]
        if whole:
            self._held.move_to_end(whole[0])
            self._pool.close(handle)
            return
        contained = [h for h, n in common.items() if n == len(self._held[h].tokens)]
        for h in contained:
            if self._pool.reachable(handle, common[h]) == common[h]:
                self._drop(h)
        self._held[handle] = _Held(tokens, adapter)
        if len(self._held) > self._max_holders:
            self.evict()

    def match(
        self, tokens: "array[int]", live: Iterable[tuple[int, "array[int]"]], adapter: str | None = None
    ) -> Match | None:
        """The cached sequence that can give the longest common prefix; at least one token is left to compute.

        `live` are running sequences of the same adapter.
        """
        wanted = tokens[: len(tokens) - 1]
        shared = ((h, common_prefix(t, wanted)) for h, t in (*live, *self._of(adapter)))
        found = [Match(h, self._pool.reachable(h, n)) for h, n in shared]
        best = max(found, key=lambda m: m.shared, default=None)
        if best is None or best.shared < MIN_SHARED:
            return None
        if best.handle in self._held:
            self._held.move_to_end(best.handle)
        return best

    def evict(self, *, spare: int | None = None) -> bool:
        """Closes the least recently used sequence but `spare`; False when there is none."""
        oldest = next((handle for handle in self._held if handle != spare), None)
        if oldest is None:
            return False
        self._drop(oldest)
        return True

    def clear(self) -> None:
        """Closes all held sequences."""
        while self.evict():
            pass

    def _of(self, adapter: str | None) -> list[tuple[int, "array[int]"]]:
        return [(handle, held.tokens) for handle, held in self._held.items() if held.adapter == adapter]

    def _drop(self, handle: int) -> None:
        del self._held[handle]
        self._pool.close(handle)
