"""What the engine needs from a paged cache, so that scheduling can be read and tested without tensors."""

from typing import Protocol


class Pool(Protocol):
    """The accounting half of `minicpm.cache.Cache`; used + free pages always equal total_pages."""

    @property
    def total_pages(self) -> int:
        """Pages in all."""
        ...

    @property
    def free_pages(self) -> int:
        """Pages no sequence holds."""
        ...

    def open(self) -> int:
        """A handle to a new, empty sequence."""
        ...

    def close(self, seq: int) -> None:
        """Gives back the sequence's pages; the handle dies."""
        ...

    def length(self, seq: int) -> int:
        """Tokens of the sequence that are in the cache."""
        ...

    def reserve(self, seq: int, n: int) -> bool:
        """Makes room for n more tokens; False, with nothing changed, when pages are short."""
        ...

    def reachable(self, seq: int, n: int) -> int:
        """How many of the first n tokens `fork` can share; fewer than n where a layer keeps a state."""
        ...

    def fork(self, seq: int, n: int) -> int:
        """A new sequence that shares the first n tokens, a reachable number of them.

        Whoever reserves room in a shared page copies it.
        """
        ...
