"""How many processors this process may really use."""

import os
from pathlib import Path

from minicpm.errors import BadParameter
from minicpm.ops.native import module

THREADS_VARIABLES = ("MINICPM_THREADS", "OMP_NUM_THREADS")
"""Environment variables that say how many threads to use, the first that is set."""

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def default_threads() -> int:
    """As many threads as the environment says, else one per usable processor.

    Raises BadParameter for a variable that is no positive number.
    """
    for name in THREADS_VARIABLES:
        asked = os.environ.get(name, "").partition(",")[0]
        if asked and not (asked.isdecimal() and int(asked) > 0):
            raise BadParameter(
                f"{name} is {asked!r}, which is no number of threads. Give one from 1 on, or unset it."
            )
        if asked:
            return int(asked)
    return usable_processors()


def usable_processors(quota: Path = _QUOTA) -> int:
    """Physical cores that this process may run on, no more than its control group pays for; at least one."""
    native = module()
    cores = len(native.physical_cores()) if native is not None else 1
    paid = _paid(quota)
    return max(1, cores if paid is None else min(cores, round(paid)))


def _paid(quota: Path) -> float | None:
    """Processors that the control group's quota amounts to; None without one."""
    try:
        allowed, _, period = quota.read_text(encoding="ascii").partition(" ")
        return None if allowed == "max" else int(allowed) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
