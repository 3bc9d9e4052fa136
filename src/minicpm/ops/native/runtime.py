"""The threads and the memory that the native operators of one model share."""

from functools import cache
from typing import Any

from minicpm.errors import BadParameter
from minicpm.ops.native import instruction_set, required
from minicpm.ops.native.processors import default_threads

MOST_THREADS = 1024


class Runtime:
    """A pool of threads, scratch memory for one forward at a time, and an arena that weights lie in.

    Models share the pool of their thread count; one job runs at a time.
    """

    def __init__(self, threads: int | None = None) -> None:
        """As many threads as the environment or the usable cores say unless `threads` does.

        Raises BadParameter for a number that no pool can have.
        """
        count = default_threads() if threads is None else threads
        if not 1 <= count <= MOST_THREADS:
            raise BadParameter(f"{count} threads were asked for. Use between 1 and {MOST_THREADS}.")
        self.isa = instruction_set()
        self.pool = _pool(count)
        native = required()
        self.scratch = native.Scratch()
        self.arena = native.Arena()

    @property
    def threads(self) -> int:
        """How many threads run an operator, the caller's included."""
        return self.pool.threads

    def __deepcopy__(self, memo: dict[int, Any]) -> "Runtime":
        return self  # what lies in the arena is read only, and a job waits for another's end


@cache
def _pool(threads: int) -> Any:
    return required().Pool(threads, True)
