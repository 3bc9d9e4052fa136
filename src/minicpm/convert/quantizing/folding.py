"""Scales the inputs of projections through what makes them, so that a block computes the same as before."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minicpm.layers.attention import Attention
from minicpm.layers.block import Block
from minicpm.layers.experts import Experts
from minicpm.layers.latent_attention import LatentAttention
from minicpm.layers.lightning import LightningAttention
from minicpm.layers.mlp import MLP
from minicpm.layers.norm import RMSNorm
from minicpm.quant.grid import Grid
from minicpm.quant.hessian import Moments
from minicpm.quant.methods import Scaling


@dataclass(frozen=True, slots=True)
class Fold:
    """Projections of one input, and the module whose outputs or gain that input is proportional to.

    Each output of `source` is read by `readers` inputs: values of a head of `width` by as many query heads.
    """

    inputs: tuple[str, ...]
    source: str
    readers: int = 1
    width: int = 1

    def alike(self, size: Tensor) -> Tensor:
        """Sizes [I] of the inputs in which those that read the same have their mean."""
        if self.readers == 1:
            return size
        by_head = size.unflatten(0, (-1, self.readers, self.width))
        return by_head.mean(dim=1, keepdim=True).expand_as(by_head).flatten()

    def of_source(self, scale: Tensor) -> Tensor:
        """The scale of each output of the source, of a scale [I] of inputs that are alike."""
        return (
            scale if self.readers == 1 else scale.unflatten(0, (-1, self.readers, self.width))[:, 0].flatten()
        )


def folds(block: Block) -> list[Fold]:
    """Every place of a block where inputs can be scaled.

    What enters experts also enters their router, which is no place: its choice is a comparison.
    """
    return [*_of_mixer(block.self_attn), *_of_feed_forward(block.mlp)]


@torch.no_grad()
def scale_inputs(
    block: Block,
    scaling: Scaling,
    grids: Mapping[str, Grid],
    moments: Mapping[str, Moments],
    *,
    dtype: torch.dtype,
) -> None:
    """Scale inputs of a float32 block where all that read them are rounded, and so is what makes them.

    `grids` and `moments` are by names in the block. A norm's gain stays one of `dtype`, exactly: what its
    rounding there takes or gives, the columns of the projections give back.
    """
    for fold in folds(block):
        source = block.get_submodule(fold.source)
        rounded = (*fold.inputs, *(() if isinstance(source, RMSNorm) else (fold.source,)))
        if not all(name in grids for name in rounded) or fold.inputs[0] not in moments:
            continue
        seen = moments[fold.inputs[0]]
        weights = [_weight(block, name) for name in fold.inputs]
        scale = scaling.search(
            weights, [grids[n] for n in fold.inputs], seen, size=fold.alike(seen.size), dtype=dtype
        )
        apply(block, fold, scale, dtype=dtype)


@torch.no_grad()
def apply(block: Block, fold: Fold, scale: Tensor, *, dtype: torch.dtype) -> None:
    """Multiply the columns of a fold's projections by a scale [I], and divide their inputs' source by it."""
    source = block.get_submodule(fold.source)
    if isinstance(source, RMSNorm):
        gain = source.weight.data
        divided = (gain / scale).to(dtype).float()
        scale = torch.where(divided == 0, scale, gain / divided)
        source.weight.data = divided
    else:
        source.weight.data /= fold.of_source(scale)[:, None]
    for name in fold.inputs:
        _weight(block, name).mul_(scale)


def _weight(block: Block, name: str) -> Tensor:
    return block.get_submodule(name).weight.data


def _of_mixer(mixer: nn.Module) -> Iterator[Fold]:
    first = "input_layernorm"
    match mixer:
        case LatentAttention():
            yield Fold(("self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa"), first)
            yield Fold(("self_attn.q_b_proj",), "self_attn.q_a_layernorm")
            yield Fold(("self_attn.kv_b_proj",), "self_attn.kv_a_layernorm")
        case Attention() | LightningAttention():
            gates = [name for name in ("o_gate", "z_proj") if hasattr(mixer, name)]
            yield Fold(tuple(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", *gates)), first)
            yield _of_output(mixer)


def _of_output(mixer: Attention | LightningAttention) -> Fold:
    config = mixer.mixer
    if hasattr(mixer, "o_norm"):
        return Fold(("self_attn.o_proj",), "self_attn.o_norm")
    return Fold(("self_attn.o_proj",), "self_attn.v_proj", config.heads // config.kv_heads, config.head_dim)


def _of_feed_forward(ffn: nn.Module) -> Iterator[Fold]:
    match ffn:
        case MLP():
            yield Fold(("mlp.gate_proj", "mlp.up_proj"), "post_attention_layernorm")
            yield Fold(("mlp.down_proj",), "mlp.up_proj")
        case Experts():
            for place in range(len(ffn.experts)):
                yield Fold((f"mlp.experts.{place}.w2",), f"mlp.experts.{place}.w3")
