"""Compares an adapter with the model it shall change, and reads its updates."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from minicpm.checkpoint.adapters.folder import Adapter
from minicpm.checkpoint.files import listed, shown
from minicpm.checkpoint.filling import is_finite
from minicpm.checkpoint.matching import differences
from minicpm.checkpoint.reading import read_tensor
from minicpm.errors import NotFinite, WeightMismatch
from minicpm.layers.lora import Directional, LowRank, Update
from minicpm.layers.projection import Projection, projections
from minicpm.models.decoder import Decoder

_PREFIX = "base_model.model."
_A, _B, _MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"


def text_projections(decoder: Decoder) -> dict[str, Projection]:
    """The projections of the layers that read text, by their published names."""
    return projections(decoder, decoder.model.get_submodule("layers"))


def fitted(adapter: Adapter, decoder: Decoder) -> dict[str, Projection]:
    """The projections that the adapter changes, by name.

    Raises WeightMismatch with every tensor that is missing, unexpected or of the wrong shape or format.
    """
    known = text_projections(decoder)
    chosen = _chosen(adapter, known)
    needed = {
        _PREFIX + name + part: shape
        for name in chosen
        for part, shape in _shapes(adapter, name, known[name]).items()
    }
    problems = differences(needed, adapter.tensors)
    if problems or not chosen:
        made_for = f" It was made for {shown(adapter.settings.base)}." if adapter.settings.base else ""
        raise WeightMismatch(
            f"The adapter in {shown(str(adapter.path))} does not fit this model. "
            f"{problems or 'It names none of its projections'}.{made_for} Nothing was changed; load the "
            "model that the adapter was trained on."
        )
    return {name: known[name] for name in chosen}


def _chosen(adapter: Adapter, known: Iterable[str]) -> list[str]:
    targets = adapter.settings.targets
    if targets.chosen is None:
        return [name for name in known if _PREFIX + name + _A in adapter.tensors]
    return [name for name in known if targets.accepts(name)]


def _shapes(adapter: Adapter, name: str, projection: Projection) -> dict[str, tuple[int, ...]]:
    rank = adapter.settings.rank_of(name)
    shapes: dict[str, tuple[int, ...]] = {
        _A: (rank, projection.in_features),
        _B: (projection.out_features, rank),
    }
    return shapes | ({_MAGNITUDE: (projection.out_features,)} if adapter.settings.dora else {})


@torch.no_grad()
def read_updates(
    adapter: Adapter,
    changed: Mapping[str, Projection],
    dtype: torch.dtype,
    *,
    device: torch.device | None = None,
) -> dict[str, Update]:
    """The updates of the projections in `changed`, in `dtype`; NotFinite names all bad tensors.

    They lie where each projection's weight does, unless a device is named.
    """
    bad: list[str] = []

    def read(name: str, part: str) -> Tensor:
        full = _PREFIX + name + part
        tensor = read_tensor(adapter.tensors[full]).to(dtype).to(device or changed[name].weight.device)
        if not is_finite(tensor):
            bad.append(full)
        return tensor

    updates: dict[str, Update] = {}
    for name, projection in changed.items():
        update = LowRank(read(name, _A), read(name, _B), adapter.settings.scale_of(name))
        if adapter.settings.dora:
            updates[name] = directional = Directional.of(update, read(name, _MAGNITUDE), projection.weight)
            bad += [] if is_finite(directional.gain) else [_PREFIX + name + _MAGNITUDE]
        else:
            updates[name] = update
    if bad:
        raise NotFinite(
            f"{len(bad)} tensors of the adapter in {shown(str(adapter.path))} hold NaN or infinity in "
            f"{str(dtype).removeprefix('torch.')}: {listed(bad)}. Nothing was changed; fetch the adapter "
            "again."
        )
    return updates
