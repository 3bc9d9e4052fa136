"""The compiled part of the package: whether it is there, how it was built, and which instructions it uses."""

import os
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["ISA_VARIABLE", "absence", "build", "instruction_set", "module", "required"]

ISA_VARIABLE = "MINICPM_ISA"
"""The environment variable that names the instruction set to use instead of the best one."""

_NOT_BUILT = (
    "this installation has no compiled part, because no C++ compiler or CMake was found when it was made; "
    "torch's operators are used instead, which decode several times slower"
)


@cache
def _probe() -> tuple[Any, str | None]:
    """(module, None) of the compiled part, or (None, why it cannot be used)."""
    try:
        native = import_module("minicpm.ops._native")
    except ModuleNotFoundError:
        return None, _NOT_BUILT
    except ImportError as error:
        return None, f"the compiled part does not load ({error}); torch's operators are used instead"
    return native, None


def module() -> ModuleType | None:
    """The compiled part itself, or None without one."""
    return _probe()[0]


def required() -> Any:
    """The compiled part, where it was made sure of before that there is one."""
    native = module()
    assert native is not None, "there is no compiled part"
    return native


def build() -> str | None:
    """Version, compiler and build type of the compiled part, or None without one."""
    native = module()
    return None if native is None else native.build()


def absence() -> str | None:
    """Why there is no compiled part, or None when there is one."""
    return _probe()[1]


def instruction_set() -> str:
    """The instruction set in use: the processor's best, or the one MINICPM_ISA names.

    Raises BadParameter for a name that was not compiled or that this processor cannot run.
    """
    from minicpm.errors import BadParameter

    native = required()
    asked = os.environ.get(ISA_VARIABLE)
    if asked and not native.choose(asked):
        raise BadParameter(
            f"{ISA_VARIABLE} names the instruction set {asked!r}, which this build or this processor does "
            f"not have. Use one of: {', '.join(native.instruction_sets())}, or leave it unset."
        )
    return native.instruction_set()
