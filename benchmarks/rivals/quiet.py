"""How much of the processors other programs use, where the system says it (Linux)."""

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
# Cores that others may use while a machine counts as quiet.
QUIET = 0.2
_LOOK_S = 0.25


def busy_seconds() -> float | None:
    """Seconds that all processors together have been at work, or kept from it by other guests of the host."""
    if not _STAT.exists():
        return None
    user, nice, system, _idle, _waiting, *rest = _STAT.read_text().splitlines()[0].split()[1:9]
    return sum(map(int, (user, nice, system, *rest))) / os.sysconf("SC_CLK_TCK")


class Others:
    """Measures from its making on, inside the process whose own work does not count."""

    def __init__(self) -> None:
        self._began, self._own, self._busy = time.perf_counter(), time.process_time(), busy_seconds()

    def cores(self) -> float | None:
        """Cores that other programs used on average."""
        busy = busy_seconds()
        if busy is None or self._busy is None:
            return None
        own = time.process_time() - self._own
        return max(0.0, (busy - self._busy - own) / (time.perf_counter() - self._began))


def wait_for_quiet(patience_s: float) -> float:
    """Return once others are quiet or the patience is used up; the seconds that are left of it."""
    end = time.monotonic() + patience_s
    while (left := end - time.monotonic()) > 0:
        others = Others()
        time.sleep(_LOOK_S)
        if (cores := others.cores()) is None or cores < QUIET:
            break
    return max(0.0, left)
