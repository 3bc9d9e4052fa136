"""Notes Ctrl-C instead of breaking off wherever the program happens to be."""

import signal
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """From `start` to `end` the first Ctrl-C only sets `came`; the second is a KeyboardInterrupt as ever."""

    def __init__(self) -> None:
        self.came = False
        self._before: Any = None

    def start(self) -> "Interrupts":
        """Begins; call it in the main thread."""
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def end(self) -> None:
        """Gives Ctrl-C its former meaning back, if `start` took it."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def __enter__(self) -> "Interrupts":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True
