"""Toy models, tokenizers and scripted chat for tests, also of those who build on the package."""

from typing import Any

_HOMES = {
    "ScriptedChat": "minicpm.testing.scripted",
    "families": "minicpm.testing.tiny",
    "tiny_adapter": "minicpm.testing.tiny_lora",
    "tiny_checkpoint": "minicpm.testing.tiny",
    "tiny_draft": "minicpm.testing.tiny_drafts",
    "tiny_config": "minicpm.testing.tiny",
}

__all__ = ["ScriptedChat", "families", "tiny_adapter", "tiny_checkpoint", "tiny_config", "tiny_draft"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
