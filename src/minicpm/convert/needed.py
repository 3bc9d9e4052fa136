"""The weights of a checkpoint under the names of its model, checked, whatever holds them."""

from dataclasses import dataclass

import torch

from minicpm.checkpoint.building import blank
from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.matching import check_tensors
from minicpm.checkpoint.naming import with_prefix
from minicpm.checkpoint.tied_head import check_tied_head
from minicpm.checkpoint.tokenizer_fit import check_tokenizer
from minicpm.config import ModelConfig
from minicpm.models.registry import parse
from minicpm.ops.quant_tensor import Weight
from minicpm.quant.packing import projections


@dataclass(frozen=True)
class Needed:
    """What a model is, the shapes of its weights, and the names of those that ternary models hold ternary."""

    config: ModelConfig
    shapes: dict[str, tuple[int, ...]]
    projections: tuple[str, ...]
    checkpoint: Checkpoint

    def read(self, name: str) -> Weight:
        """A weight as it is stored: plain in its dtype, or in codes that stand for float32."""
        packed = self.checkpoint.packed.get(name)
        return self.checkpoint.read(name) if packed is None else packed.read(torch.float32)


def needed_of(checkpoint: Checkpoint) -> Needed:
    """The weights that the model of a checkpoint needs, none of them read.

    Raises BadConfig and its kin, TokenizerMismatch, and WeightMismatch when they are not all there.
    """
    config = parse(checkpoint.raw_config)
    model = blank(config)
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    checkpoint = with_prefix(checkpoint, shapes)
    check_tensors(shapes, checkpoint, unused=model.unused)
    check_tied_head(checkpoint, config, model.unused)
    check_tokenizer(checkpoint.path, config, checkpoint.generation)
    return Needed(config, shapes, tuple(f"{name}.weight" for name in projections(model)), checkpoint)
