"""Writes an adapter into the weights of a decoder, and measures what that changed."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from minicpm.cache import Batch, Segment
from minicpm.checkpoint.adapters.fitting import fitted, read_updates
from minicpm.checkpoint.adapters.folder import Adapter
from minicpm.checkpoint.files import listed, shown
from minicpm.checkpoint.filling import is_finite
from minicpm.errors import BadParameter, NotFinite
from minicpm.layers.lora import Update, make_adaptable
from minicpm.layers.native_linear import NativeLinear
from minicpm.layers.projection import Projection
from minicpm.layers.quant_linear import QuantLinear
from minicpm.models.decoder import Decoder

_MERGING = "(merging)"
_PROBE_TOKENS = 16
# Where rounding the sum takes more than this share of what the adapter does, a note says so.
_NOTABLE = 0.1


@dataclass(frozen=True, slots=True)
class Merged:
    """Largest logit differences over a probe text: merged against unmerged, and unmerged against the base."""

    difference: float
    change: float

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the merge."""
        if self.difference <= _NOTABLE * self.change:
            return ()
        return (
            f"Rounding the merged weights moves logits by up to {self.difference:.2g}, where the adapter "
            f"moves them by {self.change:.2g}. Load it beside the weights, or the model in float32.",
        )


@torch.no_grad()
def merge(decoder: Decoder, adapter: Adapter) -> Merged:
    """Replace every weight the adapter changes by the sum, made in float32 and cast to the weight's dtype.

    Prepared or not. Raises WeightMismatch when the adapter is for another model, NotFinite when a sum
    overflows, BadParameter for projections that a prepared model no longer calls; then nothing was changed.
    """
    changed = fitted(adapter, decoder)
    _refuse_packed(adapter, changed)
    updates = read_updates(adapter, changed, torch.float32)
    _check_finite(changed, updates)
    base, unmerged = _probe(decoder, None), _unmerged(decoder, adapter, changed)
    for name, projection in changed.items():
        _replace(projection, updates[name].merged(projection.weight))
    if decoder.backend.runtime is not None:
        decoder.prepare(decoder.backend)  # what was made of the weights is made anew
    return Merged(_largest(_probe(decoder, None) - unmerged), _largest(unmerged - base))


def _replace(projection: Projection, weight: Tensor) -> None:
    """In place, so that fused weights, which projections view, change too."""
    if isinstance(projection, NativeLinear):
        projection.write(weight)
    else:
        projection.weight.copy_(weight)


def _is_packed(projection: Projection) -> bool:
    if isinstance(projection, NativeLinear):
        return projection.matrix.bits < 16
    return isinstance(projection, QuantLinear)


def _refuse_packed(adapter: Adapter, changed: Mapping[str, Projection]) -> None:
    if packed := [name for name, projection in changed.items() if _is_packed(projection)]:
        raise BadParameter(
            f"The adapter in {shown(str(adapter.path))} cannot be merged: these weights are packed in few "
            f"bits, which would round most of it away: {listed(packed)}. Load it beside the weights, by name."
        )


def _check_finite(changed: Mapping[str, Projection], updates: Mapping[str, Update]) -> None:
    bad = [n for n, p in changed.items() if not is_finite(updates[n].merged(p.weight).to(p.weight.dtype))]
    if bad:
        raise NotFinite(
            f"Merged weights overflow the model's dtype: {listed(bad)}. Nothing was changed; load the model "
            "in float32 or bfloat16."
        )


def _unmerged(decoder: Decoder, adapter: Adapter, changed: Mapping[str, Projection]) -> Tensor:
    """The probe's logits with the adapter beside the weights, in the model's dtype."""
    updates = read_updates(adapter, changed, decoder.dtype)
    made = {name: make_adaptable(decoder, name, decoder.adapters) for name in changed}
    called: set[str] = set()
    for name, projection in made.items():
        projection.updates[_MERGING] = _Called(updates[name], name, called)
    decoder.adapters.names.add(_MERGING)
    try:
        logits = _probe(decoder, _MERGING)
    finally:
        decoder.adapters.names.discard(_MERGING)
        for projection in made.values():
            del projection.updates[_MERGING]
    if lost := sorted(made.keys() - called):
        raise BadParameter(
            f"The adapter in {shown(str(adapter.path))} changes projections that this prepared model no "
            f"longer calls, so that merging cannot be checked: {listed(lost)}. Merge before preparing: load "
            "the model with prepare=False."
        )
    return logits


class _Called(Update):
    """An update that notes that it was asked for."""

    def __init__(self, update: Update, name: str, called: set[str]) -> None:
        self._update, self._name, self._called = update, name, called

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        self._called.add(self._name)
        return self._update(x, out)

    def merged(self, weight: Tensor) -> Tensor:
        return self._update.merged(weight)


def _probe(decoder: Decoder, adapter: str | None) -> Tensor:
    vocab = decoder.config.vocab
    ids = (
        torch.arange(1, _PROBE_TOKENS + 1, device=decoder.device)
        * (vocab // (_PROBE_TOKENS + 1) or 1)
        % vocab
    )
    return decoder.logits(decoder(Batch(ids, (Segment(None, 0, len(ids), adapter),))))


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())
