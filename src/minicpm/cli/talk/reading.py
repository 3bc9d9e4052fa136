"""Reads an answer on a thread of its own, so that Ctrl-C stops the model between two steps, never in one."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event as Flag

from minicpm.text.events import Event

Start = Callable[[], Iterator[Event]]


class Reading:
    """One answer being read; iteration gives events, and None each time `patience_s` passes without one.

    After `stop()` what was already written still comes, then the iteration ends. Errors of the model are
    raised by the iteration.
    """

    def __init__(self, pool: ThreadPoolExecutor, start: Start, *, patience_s: float = 0.1) -> None:
        self.notes: tuple[str, ...] = ()
        self._patience_s = patience_s
        self._queue: SimpleQueue[Event | None] = SimpleQueue()
        self._stopped = Flag()
        self._events: Iterator[Event] | None = None
        self._done = pool.submit(self._read, start)
        self._done.add_done_callback(lambda _: self._queue.put(None))

    def __iter__(self) -> Iterator[Event | None]:
        while True:
            try:
                event = self._queue.get(timeout=self._patience_s)
            except Empty:
                yield None
                continue
            if event is None:
                self._done.result()
                return
            yield event

    def stop(self) -> None:
        """Asks the model to stop, which it does at its next event at the latest."""
        self._stopped.set()
        # A generator that is being read cannot be closed from here; its reader then closes it.
        with suppress(ValueError):
            _close(self._events)

    def _read(self, start: Start) -> None:
        self._events = events = start()
        self.notes = tuple(getattr(events, "notes", ()))
        for event in events:
            self._queue.put(event)
            if self._stopped.is_set() and not _close(events):
                return


def _close(events: Iterator[Event] | None) -> bool:
    """Closes an answer; False for an iterator that cannot be closed."""
    close = getattr(events, "close", None)
    if close is not None:
        close()
    return close is not None
