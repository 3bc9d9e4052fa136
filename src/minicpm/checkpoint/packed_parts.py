"""Between the packed modules of a model and the bytes of a file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from minicpm.checkpoint.packed_file import Entry, PackedFile, Piece, Unusable
from minicpm.checkpoint.reading import NAMES, TORCH_DTYPES, as_buffer
from minicpm.layers.native_linear import NativeEmbedding, NativeLinear
from minicpm.layers.quant_embedding import QuantEmbedding
from minicpm.layers.quant_linear import QuantLinear
from minicpm.ops.native.matrix import Description, NativeMatrix, reserve
from minicpm.ops.native.runtime import Runtime
from minicpm.ops.quant_tensor import QuantTensor, Scheme

_NATIVE, _CODES = "native", "codes"
_PARTS = ("codes", "scales", "zeros", "offsets")


def pieces_of(model: nn.Module) -> list[Piece]:
    """The native matrices of a prepared model and its packed ones that are none, borrowed."""
    natives: dict[int, list[tuple[str, NativeLinear | NativeEmbedding]]] = {}
    pieces = []
    for name, module in model.named_modules():
        if isinstance(module, NativeLinear | NativeEmbedding):
            natives.setdefault(id(module.matrix), []).append((name, module))
        elif isinstance(module, QuantLinear):
            pieces.append(_codes(name, module.packed))
    return [*map(_native, natives.values()), *pieces]


def restore(model: nn.Module, file: PackedFile, runtime: Runtime) -> None:
    """Let what the file holds take the place of modules on the meta device.

    Raises Unusable, and nothing was changed, for one that is damaged or for another model.
    """
    places = [_place(model, entry, runtime) for entry in file.entries]
    file.fill(
        [(entry, parts) for entry, (parts, _) in zip(file.entries, places, strict=True)],
        threads=runtime.threads,
    )
    for _, put in places:
        put()


def weights_in(file: PackedFile) -> int:
    """How many weights its matrices have."""
    return sum(_weights(entry.what) for entry in file.entries)


def _weights(what: Mapping[str, Any]) -> int:
    if what["kind"] == _NATIVE:
        return int(what["rows"] * what["inputs"])
    return int(what["scales"][0] * what["scales"][1] * what["group"])


_Place = tuple[Sequence[memoryview], Callable[[], None]]


def _place(model: nn.Module, entry: Entry, runtime: Runtime) -> _Place:
    """Memory for an entry, and what puts it into the model once it is filled."""
    try:
        shapes = [tuple(model.get_parameter(f"{name}.weight").shape) for name in entry.names]
    except AttributeError as error:
        raise Unusable(f"it is for another model ({error})") from error
    make = _place_native if entry.what["kind"] == _NATIVE else _place_codes
    what = {key: value for key, value in entry.what.items() if key != "kind"}
    return make(model, entry, shapes, what, runtime)


def _native(views: Sequence[tuple[str, NativeLinear | NativeEmbedding]]) -> Piece:
    ordered = sorted(views, key=lambda view: view[1].first)
    matrix = ordered[0][1].matrix
    what = {"kind": _NATIVE, **asdict(matrix.description)}
    return Piece(tuple(name for name, _ in ordered), what, [matrix.buffer()])


def _place_native(
    model: nn.Module,
    entry: Entry,
    shapes: Sequence[tuple[int, ...]],
    what: Mapping[str, Any],
    runtime: Runtime,
) -> _Place:
    description = Description(**what)
    rows = [shape[0] for shape in shapes]
    if sum(rows) != description.rows or {shape[1] for shape in shapes} != {description.inputs}:
        raise Unusable("it is for a model of other sizes")
    matrix = reserve(description, runtime)
    if matrix.nbytes != entry.nbytes:
        raise Unusable("it has another layout")
    return [matrix.buffer()], lambda: _put_native(model, zip(entry.names, rows, strict=True), matrix)


def _put_native(model: nn.Module, views: Iterator[tuple[str, int]], matrix: NativeMatrix) -> None:
    first = 0
    for name, rows in views:
        embeds = isinstance(model.get_submodule(name), nn.Embedding)
        _put(model, name, NativeEmbedding(matrix) if embeds else NativeLinear(matrix, first, first + rows))
        first += rows


def _codes(name: str, weight: QuantTensor) -> Piece:
    held = {part: found for part in _PARTS if (found := getattr(weight, part)) is not None}
    what = {
        "kind": _CODES,
        "bits": weight.scheme.bits,
        "group": weight.scheme.group,
        "symmetric": weight.scheme.symmetric,
        "scales": list(weight.scales.shape),
        "parts": {part: [list(found.shape), NAMES[found.dtype]] for part, found in held.items()},
        "result": None if weight.result is None else NAMES[weight.result],
    }
    return Piece((name,), what, [as_buffer(found.contiguous()) for found in held.values()])


def _place_codes(
    model: nn.Module,
    entry: Entry,
    shapes: Sequence[tuple[int, ...]],
    what: Mapping[str, Any],
    runtime: Runtime,
) -> _Place:
    held = {
        part: torch.empty(shape, dtype=TORCH_DTYPES[dtype]) for part, (shape, dtype) in what["parts"].items()
    }
    weight = QuantTensor(
        codes=held["codes"],
        scales=held["scales"],
        zeros=held.get("zeros"),
        scheme=Scheme(bits=what["bits"], group=what["group"], symmetric=what["symmetric"]),
        offsets=held.get("offsets"),
        result=None if what["result"] is None else TORCH_DTYPES[what["result"]],
    )
    if weight.shape != shapes[0] or weight.nbytes != entry.nbytes:
        raise Unusable("it is for a model of other sizes")
    return list(map(as_buffer, held.values())), lambda: _put_codes(model, entry.names[0], weight)


def _put_codes(model: nn.Module, name: str, weight: QuantTensor) -> None:
    embeds = isinstance(model.get_submodule(name), nn.Embedding)
    _put(model, name, QuantEmbedding(weight) if embeds else QuantLinear(weight))


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
