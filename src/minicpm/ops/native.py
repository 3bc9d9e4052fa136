"""Says whether the compiled part of the package is there, and how it was built."""

from functools import cache
from importlib import import_module

_NOT_BUILT = (
    "this installation has no compiled part, because no C++ compiler or CMake was found when it was made; "
    "the reference operators are used instead"
)


@cache
def _probe() -> tuple[str | None, str | None]:
    """(build, None) of the compiled part, or (None, why it cannot be used)."""
    try:
        native = import_module("minicpm.ops._native")
    except ModuleNotFoundError:
        return None, _NOT_BUILT
    except ImportError as error:
        return None, f"the compiled part does not load ({error}); the reference operators are used instead"
    return native.build(), None


def build() -> str | None:
    """Version, compiler, build type and instruction sets of the compiled part, or None without one."""
    return _probe()[0]


def absence() -> str | None:
    """Why there is no compiled part, or None when there is one."""
    return _probe()[1]
