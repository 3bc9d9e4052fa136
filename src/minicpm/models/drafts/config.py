"""Reads the config.json of a draft beside the config of its target."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from minicpm.config import ModelConfig, RawConfig
from minicpm.models.families.dense import Defaults, DenseShape, read_dense_shape

_DEFAULTS = Defaults(context=2048, norm_eps=1e-6)
# What the target decides, or what says nothing about a forward pass.
_IGNORED = (
    "bias", "bos_token_id", "dim_model_base", "eos_token_id", "num_nextn_predict_layers", "pad_token_id",
    "scale_emb", "sparse_config", "tie_word_embeddings",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Eagle2Config:
    """`model` has the draft's one layer, its eps and its residual scale; all else is the target's."""

    model: ModelConfig


@dataclass(frozen=True, slots=True)
class Eagle3Config:
    """`model` as for EAGLE-2; `taps` are the target layers whose input the draft sees, times `tap_scale`.

    `vocab` is how many tokens the draft can guess.
    """

    model: ModelConfig
    vocab: int
    taps: tuple[int, ...]
    tap_scale: float = 1.0


def parse_eagle2(
    raw: Mapping[str, Any], target: ModelConfig, *, residual_scale: float | None = None
) -> Eagle2Config:
    """The draft's config; without `residual_scale` it is scale_depth / sqrt(mup_denominator).

    Where the config has no mup_denominator, published drafts are run with sqrt(target layers + 1) instead;
    without scale_depth branches are not scaled. Raises BadConfig or UnreadConfig with all problems.
    """
    reader = RawConfig(raw)
    model = _read_model(reader, target)
    own = _read_residual_scale(reader, len(target.layers))
    reader.finish()
    return Eagle2Config(replace(model, residual_scale=residual_scale or own))


def parse_eagle3(
    raw: Mapping[str, Any],
    target: ModelConfig,
    *,
    residual_scale: float | None = None,
    tap_scale: float | None = None,
) -> Eagle3Config:
    """The draft's config; neither branches nor taps are scaled unless said.

    The taps are those the config names, else 2, L / 2 and L - 3 of the target's L layers (EAGLE-3,
    arXiv 2503.01840). Raises BadConfig or UnreadConfig with all problems.
    """
    reader = RawConfig(raw)
    model = _read_model(reader, target)
    reader.ignore("scale_depth", "mup_denominator")
    vocab = reader.integer("draft_vocab_size", target.vocab)
    if vocab > target.vocab:
        reader.problem(f"draft_vocab_size {vocab} exceeds the target's vocabulary of {target.vocab}")
    taps = _read_taps(reader, len(target.layers))
    reader.finish()
    return Eagle3Config(replace(model, residual_scale=residual_scale or 1.0), vocab, taps, tap_scale or 1.0)


def _read_model(reader: RawConfig, target: ModelConfig) -> ModelConfig:
    """One layer of the draft's sizes in a model that is the target otherwise: its rope, so its positions."""
    reader.ignore(*_IGNORED)
    shape = read_dense_shape(reader, _DEFAULTS)
    _check_against(reader, shape, target)
    return replace(target, layers=shape.layers[:1], norm_eps=shape.norm_eps, sparse=None, notes=())


def _check_against(reader: RawConfig, shape: DenseShape, target: ModelConfig) -> None:
    pairs = (
        ("hidden_size", shape.hidden, target.hidden),
        ("vocab_size", shape.vocab, target.vocab),
        ("the width of a head", shape.rope.dim, target.rope.dim),
    )
    for name, own, wanted in pairs:
        if own != wanted:
            reader.problem(f"{name} is {own}, and the target's is {wanted}")
    if len(shape.layers) != 1:
        reader.problem(f"num_hidden_layers is {len(shape.layers)}, where a draft of one layer is known")


def _read_residual_scale(reader: RawConfig, layers: int) -> float:
    scaled = reader.has("scale_depth")
    depth = reader.number("scale_depth", 1.0)
    count = reader.number("mup_denominator", float(layers + 1))
    return depth / math.sqrt(count) if scaled else 1.0


def _read_taps(reader: RawConfig, layers: int) -> tuple[int, ...]:
    eagle = reader.child("eagle_config")
    taps: tuple[int, ...] = (2, layers // 2, layers - 3)
    if eagle is not None:
        eagle.ignore("use_aux_hidden_state")
        taps = eagle.tokens("eagle_aux_hidden_state_layer_ids", taps)
    if wrong := [tap for tap in taps if not 0 <= tap < layers]:
        reader.problem(f"the draft sees what enters layers {wrong}, and the target has {layers} layers")
    return taps
