"""What tests of the package and of its users need: toy models and scripted answers."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {"ScriptedChat": "minicpm.testing.scripted"}


def __getattr__(name: str) -> Any:
    """Imports a name's module when it is first asked for, so that scripts of answers need no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
