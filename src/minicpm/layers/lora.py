"""Low-rank updates of projections (LoRA, arXiv 2106.09685; DoRA, arXiv 2402.09353), chosen row by row.

Projections are called as plain modules, so that training tools can wrap them. Which rows an adapter gets
therefore reaches them through the `Adapters` of their decoder, for the length of one forward.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from minicpm.cache import Rows, Segment
from minicpm.errors import BadParameter
from minicpm.layers.native_linear import NativeLinear
from minicpm.layers.quant_linear import QuantLinear
from minicpm.ops.rows import pad_rows, row_multiple

ALL_ROWS = slice(None)


class Update(Protocol):
    """What one adapter does to one projection."""

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """The adapter's output [n, O] for x [n, I], given the base projection's `out` [n, O]."""
        ...

    def merged(self, weight: Tensor) -> Tensor:
        """The weight [O, I] float32 that gives the adapter's output by itself."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """out + s * B (A x), with A [r, I], B [O, r] and s = alpha / r (arXiv 2106.09685, section 4.1)."""

    a: Tensor
    b: Tensor
    scale: float

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """As `Update`."""
        return out + linear(linear(x, self.a), self.b) * self.scale

    def merged(self, weight: Tensor) -> Tensor:
        """W + s * B A."""
        return weight.float() + self.scale * (self.b.float() @ self.a.float())


@dataclass(frozen=True, slots=True, eq=False)
class Directional:
    """g * (out + s * B (A x)) with gains g [O] = m / ||W + s * B A|| by row (arXiv 2402.09353, eq. 5)."""

    low_rank: LowRank
    gain: Tensor

    @classmethod
    def of(cls, low_rank: LowRank, magnitude: Tensor, weight: Tensor) -> "Directional":
        """For a magnitude vector m [O] and the base weight [O, I], whose rows' norms are taken in float32."""
        norms = low_rank.merged(weight.detach()).norm(dim=1)
        return cls(low_rank, (magnitude.float() / norms).to(low_rank.b.dtype))

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """As `Update`."""
        return self.low_rank(x, out) * self.gain

    def merged(self, weight: Tensor) -> Tensor:
        """g (W + s * B A), row by row."""
        return self.low_rank.merged(weight) * self.gain.float()[:, None]


class Adapters:
    """The adapters a decoder holds by name, and the rows of the running forward that use each."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names = set(names)
        # Per context, so that forwards of two threads do not see each other's rows.
        self._groups: ContextVar[tuple[tuple[str, Rows], ...]] = ContextVar("adapter_rows", default=())

    def __reduce__(self) -> tuple[Any, ...]:
        return Adapters, (tuple(self.names),)  # a copied decoder gets its own context

    @property
    def groups(self) -> tuple[tuple[str, Rows], ...]:
        """(name, rows) of the running forward; rows without an adapter are in none."""
        return self._groups.get()

    @property
    def mixed(self) -> bool:
        """True when rows of the running forward differ in their adapter."""
        return any(rows is not ALL_ROWS for _, rows in self.groups)

    def require(self, name: str | None) -> None:
        """Raise BadParameter for the name of an adapter that is not loaded."""
        if name is not None and name not in self.names:
            known = f"Loaded ones: {', '.join(sorted(self.names))}" if self.names else "None is loaded"
            raise BadParameter(f"There is no adapter {name!r}. {known}; load it with the model, by name.")

    @contextmanager
    def routed(self, segments: Sequence[Segment], device: torch.device) -> Iterator[None]:
        """Within it, projections update the rows of every segment that names an adapter."""
        token = self._groups.set(self._rows_by_adapter(segments, device))
        try:
            yield
        finally:
            self._groups.reset(token)

    def _rows_by_adapter(
        self, segments: Sequence[Segment], device: torch.device
    ) -> tuple[tuple[str, Rows], ...]:
        used = {segment.adapter for segment in segments}
        for name in used:
            self.require(name)
        if len(used) == 1:
            return tuple((name, ALL_ROWS) for name in used if name is not None)
        return tuple(
            (name, _rows_of(name, segments, device)) for name in sorted(used - {None}, key=str) if name
        )


class AdaptedLinear(nn.Module):
    """A projection under its old name and weight, whose rows get the update of their adapter."""

    weight: Tensor
    updates: dict[str, Update]
    merged: "dict[str, _Merged]"
    _adapters: Adapters

    def forward(self, x: Tensor) -> Tensor:
        """x [T, I] to [T, O]."""
        return self.updated(x, super().forward(x))

    def updated(self, x: Tensor, out: Tensor) -> Tensor:
        """`out` [T, O] of the weight alone for x [T, I], with every adapter's rows replaced by its own."""
        for name, rows in self._adapters.groups:
            if name in self.updates:
                out = _update_rows(self.updates[name], x, out, rows)
        return out


class _AdaptedPlain(AdaptedLinear, nn.Linear):
    """Over a plain weight, which it shares."""

    def __init__(self, base: nn.Linear, adapters: Adapters) -> None:
        nn.Module.__init__(self)  # Linear's own would allocate a second weight
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.updates, self.merged, self._adapters = {}, {}, adapters


class _AdaptedPacked(AdaptedLinear, QuantLinear):
    """Over a packed weight, which it shares."""

    def __init__(self, base: QuantLinear, adapters: Adapters) -> None:
        QuantLinear.__init__(self, base.packed)
        self.updates, self.merged, self._adapters = {}, {}, adapters


class _AdaptedNative(AdaptedLinear, NativeLinear):
    """Over a weight in the kernels' layout, which it shares."""

    def __init__(self, base: NativeLinear, adapters: Adapters) -> None:
        NativeLinear.__init__(self, base.matrix, base.first, base.last)
        self.updates, self.merged, self._adapters = {}, {}, adapters


def adapted(projection: nn.Module, x: Tensor, out: Tensor) -> Tensor:
    """`out` of a projection computed elsewhere (fused with others), with its adapters' updates."""
    return projection.updated(x, out) if isinstance(projection, AdaptedLinear) else out


@dataclass(frozen=True, slots=True, eq=False)
class _Merged:
    """A weight with an update in it, and the update and the state of the weight that it was made of."""

    weight: Tensor
    update: Update
    version: int


def weight_with(projection: AdaptedLinear, name: str | None) -> Tensor:
    """The weight [O, I] that gives by itself what the projection gives rows with the adapter `name`.

    It is made once and kept until the adapter or the weight changes, unless it is to be trained through.
    """
    update, weight = None if name is None else projection.updates.get(name), projection.weight
    if name is None or update is None:
        return weight
    if weight.requires_grad and torch.is_grad_enabled():
        return update.merged(weight).to(weight.dtype)
    version = 0 if isinstance(projection, QuantLinear | NativeLinear) else weight._version
    held = projection.merged.get(name)
    if held is None or held.update is not update or held.version != version:
        # Not as an inference tensor: a later forward may be none of inference.
        with torch.inference_mode(False), torch.no_grad():
            held = _Merged(update.merged(weight).to(weight.dtype), update, version)
        projection.merged[name] = held
    return held.weight


def make_adaptable(root: nn.Module, name: str, adapters: Adapters) -> AdaptedLinear:
    """The projection `name` under `root`, replaced by one that takes updates unless it already does."""
    projection = root.get_submodule(name)
    if isinstance(projection, AdaptedLinear):
        return projection
    made = _adaptable(projection, adapters)
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, made)
    return made


def _adaptable(projection: nn.Module, adapters: Adapters) -> AdaptedLinear:
    match projection:
        case QuantLinear():
            return _AdaptedPacked(projection, adapters)
        case NativeLinear():
            return _AdaptedNative(projection, adapters)
        case nn.Linear():
            return _AdaptedPlain(projection, adapters)
    raise NotImplementedError(f"no adapters for {type(projection).__name__}")


def _update_rows(update: Update, x: Tensor, out: Tensor, rows: Rows) -> Tensor:
    if rows is ALL_ROWS:
        return update(x, out)
    # Padded like the whole batch is, so that a row's update does not depend on how many rows share it.
    multiple = row_multiple(x.dtype, x.device)
    own = out[rows]
    changed = update(pad_rows(x[rows], multiple), pad_rows(own, multiple))[: len(own)]
    if isinstance(rows, slice):
        return torch.cat((out[: rows.start], changed, out[rows.stop :]))
    return out.index_copy(0, rows, changed)


def _rows_of(name: str, segments: Sequence[Segment], device: torch.device) -> Rows:
    ends, total = [], 0
    for segment in segments:
        ends.append((total, total + segment.count))
        total += segment.count
    spans = [span for span, segment in zip(ends, segments, strict=True) if segment.adapter == name]
    if all(before[1] == after[0] for before, after in pairwise(spans)):
        return slice(spans[0][0], spans[-1][1])
    return torch.cat([torch.arange(*span, device=device) for span in spans])
