"""Notes Ctrl-C instead of breaking off wherever the program happens to be."""

import signal
from types import FrameType, TracebackType


class Interrupts:
    """Inside the block the first Ctrl-C only sets `came`; the second one is a KeyboardInterrupt as ever."""

    def __init__(self) -> None:
        self.came = False

    def __enter__(self) -> "Interrupts":
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True
