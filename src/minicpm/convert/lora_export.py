"""Writes a LoRA of PEFT as a GGUF file that llama.cpp adds to the model it was made for."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from minicpm.checkpoint.adapters.fitting import fitted, read_updates
from minicpm.checkpoint.adapters.folder import Adapter
from minicpm.checkpoint.atomic import new_file, new_folder
from minicpm.checkpoint.building import blank
from minicpm.checkpoint.disk import require_room, writing
from minicpm.checkpoint.files import listed, shown
from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.gguf.config_out import architecture_for
from minicpm.checkpoint.gguf.names import MINICPM3, Place, paired_heads, place_of
from minicpm.checkpoint.gguf.types import by_name
from minicpm.checkpoint.gguf.values import Typed, f32, string
from minicpm.checkpoint.gguf.writing import TensorPlan, size_of, write_gguf
from minicpm.checkpoint.kinds import require_kind
from minicpm.checkpoint.progress import Progress
from minicpm.checkpoint.row_order import to_pairs
from minicpm.convert.gguf_export import check_gguf_target
from minicpm.convert.naming import fit
from minicpm.convert.outcome import Outcome, sizes_in
from minicpm.convert.sums import write_sums
from minicpm.errors import BadInput
from minicpm.layers.lora import LowRank
from minicpm.layers.projection import Projection
from minicpm.models.decoder import Decoder
from minicpm.models.registry import parse

_LATENT = ("attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_kv_b")


def lora_to_gguf(
    adapter: Adapter,
    base: Checkpoint,
    target: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    dry_run: bool = False,
) -> Outcome:
    """Write NAME-lora.gguf, in float32, and SHA256SUMS into the folder `target`, at once, at the end.

    `base` is the model that the adapter is for; its weights are not read. llama.cpp multiplies B A by
    alpha / rank; where an adapter asks for another scale, B carries the difference. Raises WeightMismatch for
    an adapter of another model, BadInput for what llama.cpp cannot add, NotFinite, DiskFull.
    """
    target = target.absolute()
    config = parse(base.raw_config)
    architecture = architecture_for(config)
    changed = fitted(adapter, require_kind(blank(config), Decoder, base))
    places = _places(adapter, list(changed), architecture)
    check_gguf_target(target, overwrite=overwrite)
    metadata: dict[str, Typed] = {
        "general.architecture": string(architecture),
        "general.type": string("adapter"),
        "general.name": string(fit(adapter.path.resolve().name)),
        "adapter.type": string("lora"),
        "adapter.lora.alpha": f32(adapter.settings.alpha),
    }
    plans = [plan for name, place in places.items() for plan in _plans(adapter, name, changed[name], place)]
    file_name, total = f"{fit(adapter.path.resolve().name)}-lora.gguf", size_of(metadata, plans)
    if dry_run:
        return Outcome(target, {file_name: total})
    require_room(target.parent, total)

    def contents() -> Iterator[Tensor]:
        for name, projection in changed.items():
            heads = paired_heads(architecture, f"{name}.weight", config)
            yield from _factors(adapter, name, projection, heads)

    with writing(target, needed=total), new_folder(target, overwrite=overwrite) as beside:
        with new_file(beside / file_name) as file:
            write_gguf(file, metadata, plans, contents(), progress)
        write_sums(beside)
    return Outcome(target, sizes_in(target))


def _places(adapter: Adapter, names: list[str], architecture: str) -> dict[str, Place]:
    """Where the base has what the adapter changes, by published name."""
    places = {name: place_of(f"{name}.weight") for name in names}
    lost = [name for name, place in places.items() if _is_lost(place, architecture)]
    if lost or adapter.settings.dora:
        what = f"changes {listed(lost)}" if lost else "has learned magnitudes (DoRA)"
        raise BadInput(
            f"The adapter in {shown(str(adapter.path))} {what}, which llama.cpp leaves out without a word. "
            "Merge it into the model, with `merged` of minicpm.load, and convert what is saved of that."
        )
    return {name: place for name, place in places.items() if place is not None}


def _is_lost(place: Place | None, architecture: str) -> bool:
    """Experts have no adapters of their own there, and latent projections are multiplied without any."""
    if place is None or place.expert is not None:
        return True
    return architecture == MINICPM3 and place.name.split(".")[2] in _LATENT


def _plans(adapter: Adapter, name: str, projection: Projection, place: Place) -> Iterator[TensorPlan]:
    rank, single = adapter.settings.rank_of(name), by_name("F32")
    yield TensorPlan(f"{place.name}.lora_a", (rank, projection.in_features), single)
    yield TensorPlan(f"{place.name}.lora_b", (projection.out_features, rank), single)


def _factors(adapter: Adapter, name: str, projection: Projection, heads: int | None) -> Iterator[Tensor]:
    """A and B as llama.cpp multiplies them: the rows of B in the order of the base's rows."""
    read = read_updates(adapter, {name: projection}, torch.float32, device=torch.device("cpu"))
    update, settings = read[name], adapter.settings
    assert isinstance(update, LowRank), "only plain LoRA is written"
    yield update.a
    theirs = settings.alpha / settings.rank_of(name)
    b = update.b * (settings.scale_of(name) / theirs)
    yield b if heads is None else to_pairs(b, heads)
