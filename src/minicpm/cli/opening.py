"""Opens the model that a verb names: checks what can be checked, says what memory it takes, then loads it."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from minicpm.cli.failures import stage
from minicpm.cli.progress import bytes_bar, spinner

if TYPE_CHECKING:
    from minicpm.engine.api import Model
    from minicpm.engine.embedder import LocalEmbedder
    from minicpm.engine.reranker import LocalReranker

T = TypeVar("T")
ADAPTER = "adapter"
"""What the adapter of the command line is called among those of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How a model is loaded; the fields go to `minicpm.load` by name."""

    context: int | None = None
    """Most tokens a conversation may hold, if not the model's own; says the memory before loading."""
    sparse: str = "auto"
    """Attend to chosen blocks once a text is long: auto (as the checkpoint says), on or off."""
    weights: str = "plain"
    """How weights are held: plain; int8 or int4 (rounded while loading); packed (ternary models, exact) or
    ternary (the same, and the head rounded to 8 bits)."""
    kv: str = "auto"
    """How keys and values are held: auto (in the weights' dtype), or int8 for about half the memory of a
    context, with the native backend."""
    dtype: str = "auto"
    """Number format of the weights: auto (as the checkpoint says), bfloat16, float16 or float32."""
    device: str = "cpu"
    """Where to compute: cpu, cuda or cuda:N."""
    backend: str = "auto"
    """Implementation of the operators: auto, native, torch or reference."""
    threads: int | None = None
    """Threads of the native operators, if not one per physical core."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    offline: bool = False
    """Use only what is on this machine."""
    adapter: str | None = None
    """LoRA adapter that answers are made with: a folder or a hub name."""

    @property
    def used_adapter(self) -> str | None:
        """The name of the adapter among those of the model."""
        return None if self.adapter is None else ADAPTER


LOADING = tuple(field.name for field in fields(LoadOptions))
_OF_SEQUENCES = ("context", "sparse", "weights", "kv", "adapter")
LOADING_WHOLE_TEXTS = tuple(name for name in LOADING if name not in _OF_SEQUENCES)
"""For models that look at whole texts, whose limit is their own."""


def open_model(name: str, options: LoadOptions) -> "Model":
    """The loaded model; every MiniCPMError that loading has, the cheap ones before anything is downloaded."""

    def loader() -> Callable[..., "Model"]:
        from minicpm.engine.api import load

        adapters = {} if options.adapter is None else {ADAPTER: options.adapter}
        return partial(load, sparse=options.sparse, weights=options.weights, kv=options.kv, adapters=adapters)

    return _opened(name, options, loader)


def open_embedder(name: str, options: LoadOptions) -> "LocalEmbedder":
    """As `open_model`, for a model that turns texts into vectors."""

    def loader() -> Callable[..., "LocalEmbedder"]:
        from minicpm.engine.embedder import load_embedder

        return load_embedder

    return _opened(name, options, loader)


def open_reranker(name: str, options: LoadOptions) -> "LocalReranker":
    """As `open_model`, for a model that judges documents by a query."""

    def loader() -> Callable[..., "LocalReranker"]:
        from minicpm.engine.reranker import load_reranker

        return load_reranker

    return _opened(name, options, loader)


def _opened(name: str, options: LoadOptions, loader: Callable[[], Callable[..., T]]) -> T:
    """What `loader()`, imported late, makes of the model's folder."""
    with stage(f"Stopped before {name} was loaded."):
        _check(options)
        folder = _find(name, options)
        _say_memory(folder, options)
        with spinner(f"Loading {name}"):
            return loader()(
                folder,
                dtype=options.dtype,
                device=options.device,
                backend=options.backend,
                threads=options.threads,
                context=options.context,
            )


def _check(options: LoadOptions) -> None:
    from minicpm.config import dtype_name
    from minicpm.config.dtypes import check_holding
    from minicpm.config.kv import check_kv
    from minicpm.config.sparse import check_mode

    check_mode(options.sparse)
    check_holding(options.weights)
    check_kv(options.kv)
    if options.dtype != "auto":
        dtype_name(options.dtype)
    if options.backend != "auto":
        from minicpm.ops.backend import check_backend

        check_backend(options.backend)


def _find(name: str, options: LoadOptions) -> Path:
    from minicpm.checkpoint import resolve

    kept = f"Stopped before {name} was here. What was fetched is kept, and the next try continues from there."
    with stage(kept), bytes_bar(f"Pulling {name}") as progress:
        return resolve(name, revision=options.revision, offline=options.offline, progress=progress)


def _say_memory(folder: Path, options: LoadOptions) -> None:
    """Says what an asked-for context takes, and refuses what does not fit."""
    if options.context is None:
        return
    from minicpm.checkpoint import open_checkpoint, plan_memory
    from minicpm.checkpoint.plan import codes_plan, require_fit
    from minicpm.cli.description import needed_codes
    from minicpm.cli.units import size
    from minicpm.config import extend
    from minicpm.config.dtypes import BITS, held_dtype
    from minicpm.config.sparse import with_sparse
    from minicpm.models.registry import parse

    checkpoint = open_checkpoint(folder)
    parsed = with_sparse(parse(checkpoint.raw_config), options.sparse)
    config = extend(parsed, options.context)
    dtype = held_dtype(options.dtype, config.dtype, options.weights)
    plan = plan_memory(config, dtype, options.context, weights=options.weights, kv=options.kv)
    codes = needed_codes(checkpoint, config)
    bits = BITS.get(options.weights)
    rounded = {name.removesuffix(".weight"): bits for name in codes if bits and ".layers." in name}
    plan = codes_plan(plan, config, codes, rounded)
    free = "" if plan.limit is None else f"; {size(plan.limit.free_bytes)} are free"
    print(
        f"A context of {plan.tokens:,} tokens takes {size(plan.needed_bytes)}: {size(plan.weight_bytes)} of "
        f"weights as {plan.held_as} and {size(plan.cache_bytes)} of cache{free}.",
        file=sys.stderr,
    )
    require_fit(plan)
