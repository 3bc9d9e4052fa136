"""Compares the tensors a model needs with those a checkpoint has, and reports every difference at once."""

from collections.abc import Iterable, Mapping, Sequence

from minicpm.checkpoint.files import listed, shown
from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.header import TensorInfo
from minicpm.errors import WeightMismatch

_FLOATS = ("F64", "F32", "BF16", "F16")
# Tables that old checkpoints carry and that are computed from the config instead.
_COMPUTED = (".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached")
_HEAD = "lm_head.weight"


def check_tensors(needed: Mapping[str, Sequence[int]], checkpoint: Checkpoint, *, tied: bool) -> None:
    """Raise WeightMismatch unless names, shapes and number formats are exactly what the model needs.

    Computed rotary tables are ignored, and so is `lm_head.weight` of a tied model.
    """
    present = {name: info for name, info in checkpoint.tensors.items() if not is_ignored(name, tied=tied)}
    problems = [
        _section("missing", sorted(needed.keys() - present.keys())),
        _section("unexpected", sorted(present.keys() - needed.keys())),
        _section("of the wrong shape", _misshaped(needed, present)),
        _section("not in a floating-point format", _not_float(needed, present)),
    ]
    if any(problems):
        raise WeightMismatch(
            f"The tensors in {shown(str(checkpoint.path))} are not those its config.json describes. "
            + ". ".join(problem for problem in problems if problem)
            + ". Nothing was loaded; fetch the checkpoint again, or correct config.json if it belongs to "
            "another model."
        )


def is_ignored(name: str, *, tied: bool) -> bool:
    """True for tensors that a checkpoint may carry and the model does not use."""
    return name.endswith(_COMPUTED) or (tied and name == _HEAD)


def _section(kind: str, items: Sequence[str]) -> str:
    return f"{len(items)} {kind}: {listed(items)}" if items else ""


def _misshaped(needed: Mapping[str, Sequence[int]], present: Mapping[str, TensorInfo]) -> list[str]:
    both = sorted(needed.keys() & present.keys())
    return [
        f"{name} is {_dims(present[name].shape)}, needed {_dims(needed[name])}"
        for name in both
        if present[name].shape != tuple(needed[name])
    ]


def _dims(shape: Iterable[int]) -> str:
    return "[" + " x ".join(map(str, shape)) + "]"


def _not_float(needed: Mapping[str, Sequence[int]], present: Mapping[str, TensorInfo]) -> list[str]:
    both = sorted(needed.keys() & present.keys())
    return [f"{name} is {present[name].dtype}" for name in both if present[name].dtype not in _FLOATS]
