"""The module that owns the parameters of each kind of mixer."""

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from minicpm.cache import Store
from minicpm.config import GQA, MLA, InfLLM, Lightning, Mixer
from minicpm.config.kv import AUTO
from minicpm.layers.attention import Attention
from minicpm.layers.latent_attention import LatentAttention
from minicpm.layers.lightning import LightningAttention
from minicpm.layers.sparse_attention import SparseAttention
from minicpm.layers.step import Step
from minicpm.ops.backend import TORCH, Backend


class MixerModule(Protocol):
    """What a block and the cache ask of a mixer."""

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        """x [T, D] normalised; result [T, D]. Rows beyond the batch's tokens are padding."""
        ...

    def new_store(self, pages: int, dtype: torch.dtype, device: torch.device, kv: str = AUTO) -> Store:
        """What this layer remembers, for sequences over `pages` pages; `kv` as for `Decoder.new_cache`.

        Raises BadParameter for keys and values that this layer cannot hold so.
        """
        ...

    def prepare(self, backend: Backend = TORCH) -> None:
        """Repack for inference."""
        ...


def mixer(hidden: int, config: Mixer, *, layer: int, norm_eps: float) -> nn.Module:
    """A `MixerModule` for layer number `layer`; `norm_eps` is that of the model's norms."""
    match config:
        case GQA():
            return Attention(hidden, config, layer=layer)
        case InfLLM():
            return SparseAttention(hidden, config, layer=layer)
        case Lightning():
            return LightningAttention(hidden, config, layer=layer, norm_eps=norm_eps)
        case MLA():
            return LatentAttention(hidden, config, layer=layer)


def as_mixer(module: nn.Module) -> MixerModule:
    """The same module, typed."""
    return cast(MixerModule, module)
