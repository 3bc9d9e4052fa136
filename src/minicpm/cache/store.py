"""What the cache asks of a layer's store."""

from typing import Protocol, runtime_checkable


class Store(Protocol):
    """What one layer remembers of all sequences, in pages."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...

    def copy_page(self, source: int, target: int) -> None:
        """Copy all that belongs to one page to another."""
        ...

    def grow(self, pages: int) -> None:
        """Make room for `pages` pages in all, no fewer than before, and keep what is held."""
        ...


@runtime_checkable
class SequenceStore(Store, Protocol):
    """A store that also keeps something per sequence, which only some lengths can be given back of."""

    def opened(self, seq: int) -> None:
        """A new empty sequence."""
        ...

    def closed(self, seq: int) -> None:
        """The sequence is gone."""
        ...

    def reachable(self, seq: int, n: int) -> int:
        """The largest length up to n at which the sequence can be continued."""
        ...

    def rewound(self, seq: int, n: int) -> None:
        """The sequence continues at n, a reachable length."""
        ...

    def forked(self, seq: int, copy: int, n: int) -> None:
        """`copy` is new and continues at n, a reachable length of `seq`."""
        ...
