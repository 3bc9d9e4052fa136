"""Which matrices of a model can be rounded, and how a checkpoint's weights are read for it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minicpm.checkpoint.building import blank
from minicpm.checkpoint.filling import is_finite, not_finite
from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.kinds import require_kind
from minicpm.checkpoint.loading import weight_dtype
from minicpm.checkpoint.reading import TORCH_DTYPES
from minicpm.config import ModelConfig
from minicpm.convert.needed import needed_of
from minicpm.convert.quantizing.recipe import Matrix
from minicpm.layers.projection import projections
from minicpm.models.decoder import Decoder
from minicpm.ops.quant_tensor import plain
from minicpm.quant import packing


@dataclass(frozen=True, eq=False)
class Source:
    """A checkpoint whose names are those of its model, which is on the meta device."""

    checkpoint: Checkpoint
    model: Decoder
    dtype: torch.dtype

    @property
    def config(self) -> ModelConfig:
        """Of the model."""
        return self.model.config

    @property
    def layers(self) -> str:
        """The name of the list of blocks."""
        return _name_of(self.model, self.model.model.layers)

    def layer(self, index: int) -> str:
        """The name of a block."""
        return f"{self.layers}.{index}"

    @property
    def embedding(self) -> str:
        """The name of the embedding."""
        return _name_of(self.model, self.model.model.embed_tokens)

    @property
    def head(self) -> str:
        """The name of the module whose matrix makes logits."""
        return self.embedding if self.config.tied else _name_of(self.model, self.model.lm_head)

    def read(self, name: str) -> Tensor:
        """A weight as stored, or decoded where it is packed; NotFinite for one that is not finite."""
        if (packed := self.checkpoint.packed.get(name)) is not None:
            found = plain(packed.read(self.dtype))
        else:
            found = self.checkpoint.read(name)
        if not is_finite(found):
            raise not_finite(self.checkpoint, [name])
        return found

    def stored_dtype(self, name: str) -> torch.dtype:
        """What a weight is stored as; the model's own dtype where it is packed."""
        info = self.checkpoint.tensors.get(name)
        return self.dtype if info is None else TORCH_DTYPES[info.dtype]

    def matrices(self) -> dict[str, Matrix]:
        """The matrices that can be rounded: projections of the layers but routers, and the head."""
        weights = {name: part.weight.shape for name, part in _inner(self.model).items()}
        found = {name: Matrix(*shape) for name, shape in weights.items()}
        return found | {self.head: Matrix(self.config.vocab, self.config.hidden, head=True)}


def source_of(checkpoint: Checkpoint) -> Source:
    """The checkpoint with its model; WrongKind for one that writes no text, and the errors of `needed_of`."""
    needed = needed_of(checkpoint)
    model = require_kind(blank(needed.config), Decoder, checkpoint)
    return Source(needed.checkpoint, model, getattr(torch, weight_dtype(needed.config, "auto")))


def _inner(model: Decoder) -> dict[str, nn.Module]:
    layers, plain = projections(model, model.model.layers), packing.projections(model)
    return {name: part for name, part in layers.items() if name in plain}


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)
