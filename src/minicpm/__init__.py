"""Every MiniCPM model in one package: load it, talk with it, measure it, train it.

Importing this module is light; what needs torch is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from minicpm._version import __version__
from minicpm.errors import MiniCPMError

if TYPE_CHECKING:
    from minicpm import testing
    from minicpm.checkpoint import load_decoder, load_draft
    from minicpm.engine.api import load
    from minicpm.engine.embedder import load_embedder
    from minicpm.engine.reranker import load_reranker

__all__ = [
    "MiniCPMError",
    "__version__",
    "errors",
    "load",
    "load_decoder",
    "load_draft",
    "load_embedder",
    "load_reranker",
    "testing",
]

# Public name -> (module, attribute in it); None stands for the module itself.
_LAZY: dict[str, tuple[str, str | None]] = {
    "load": ("minicpm.engine.api", "load"),
    "load_decoder": ("minicpm.checkpoint", "load_decoder"),
    "load_draft": ("minicpm.checkpoint", "load_draft"),
    "load_embedder": ("minicpm.engine.embedder", "load_embedder"),
    "load_reranker": ("minicpm.engine.reranker", "load_reranker"),
    "testing": ("minicpm.testing", None),
}


def __getattr__(name: str) -> Any:
    """Imports what a public name needs when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'minicpm' has no attribute {name!r}")
    module_name, attribute = _LAZY[name]
    module = import_module(module_name)
    return module if attribute is None else getattr(module, attribute)


def __dir__() -> list[str]:
    """Public names, the lazy ones included."""
    return sorted({*globals(), *__all__})
