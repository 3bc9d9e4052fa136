"""The one shape in which long work reports how far it is."""

from typing import Protocol


class Progress(Protocol):
    """Called often during long work: bytes done, bytes in total, and what is being worked on."""

    def __call__(self, done: int, total: int, label: str) -> None:
        """Report; must return quickly and may be called from the working thread only."""
