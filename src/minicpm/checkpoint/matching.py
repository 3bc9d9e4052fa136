"""Compares the tensors a model needs with those a checkpoint has, and reports every difference at once."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from minicpm.checkpoint.files import listed, shown
from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.header import TensorInfo
from minicpm.errors import WeightMismatch

_FLOATS = ("F64", "F32", "BF16", "F16")
_INTEGERS = ("I64", "I32", "I16")
# Tables that old checkpoints carry and that are computed from the config instead.
_COMPUTED = (".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached")


def check_tensors(
    needed: Mapping[str, Sequence[int]], checkpoint: Checkpoint, *, unused: Collection[str] = ()
) -> None:
    """Raise WeightMismatch unless names, shapes and number formats are exactly what the model needs.

    Computed rotary tables are ignored, and so are the names of `unused`, which files of this model may carry.
    """
    present = {
        name: info
        for name, info in checkpoint.tensors.items()
        if name not in unused and not name.endswith(_COMPUTED)
    }
    packed = {name: source.shape for name, source in checkpoint.packed.items() if name not in unused}
    if problems := differences(needed, present, packed=packed):
        raise WeightMismatch(
            f"The tensors in {shown(str(checkpoint.path))} are not those its config.json describes. "
            f"{problems}. Nothing was loaded; fetch the checkpoint again, or correct config.json if it "
            "belongs to another model."
        )


def differences(
    needed: Mapping[str, Sequence[int]],
    present: Mapping[str, TensorInfo],
    *,
    whole: Collection[str] = (),
    packed: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """Every way in which the tensors present are not those needed; empty when there is none.

    All must be in a floating-point format but those in `whole`, which hold integers, and matrices held in
    codes, of which `packed` gives the shapes.
    """
    shapes: dict[str, Sequence[int]] = {name: info.shape for name, info in present.items()}
    shapes |= packed or {}
    problems = [
        _section("missing", sorted(needed.keys() - shapes.keys())),
        _section("unexpected", sorted(shapes.keys() - needed.keys())),
        _section("of the wrong shape", _misshaped(needed, shapes)),
        _section("not in a floating-point format", _other(needed.keys() - set(whole), present, _FLOATS)),
        _section("not in an integer format", _other(needed.keys() & set(whole), present, _INTEGERS)),
    ]
    return ". ".join(problem for problem in problems if problem)


def _section(kind: str, items: Sequence[str]) -> str:
    return f"{len(items)} {kind}: {listed(items)}" if items else ""


def _misshaped(needed: Mapping[str, Sequence[int]], present: Mapping[str, Sequence[int]]) -> list[str]:
    both = sorted(needed.keys() & present.keys())
    return [
        f"{name} is {_dims(present[name])}, needed {_dims(needed[name])}"
        for name in both
        if tuple(present[name]) != tuple(needed[name])
    ]


def _dims(shape: Iterable[int]) -> str:
    return "[" + " x ".join(map(str, shape)) + "]"


def _other(names: Iterable[str], present: Mapping[str, TensorInfo], formats: Collection[str]) -> list[str]:
    both = sorted(present.keys() & set(names))
    return [f"{name} is {present[name].dtype}" for name in both if present[name].dtype not in formats]
