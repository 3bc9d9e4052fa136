"""How many neurons of the feed-forwards a text leaves at exactly zero, and how to leave those out."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minicpm.cache import Batch
from minicpm.errors import BadParameter
from minicpm.layers.feed_forwards import as_feed_forward
from minicpm.layers.sparse_mlp import SparseMLP
from minicpm.models.trunk import Trunk

_PIECE = 512
"""Tokens read at once; longer texts are cut, which bounds the memory and hardly changes the shares."""


@dataclass(frozen=True, slots=True)
class Sparsity:
    """Share of exact zeros among a layer's intermediate activations, per layer, over `tokens` tokens."""

    layers: tuple[float, ...]
    tokens: int

    @property
    def mean(self) -> float:
        """Over all layers (ProSparse, arXiv 2402.13516, section 4)."""
        return sum(self.layers) / len(self.layers)


@torch.no_grad()
def activation_sparsity(decoder: Trunk, ids: Sequence[int] | Tensor) -> Sparsity:
    """The sparsity of act(gate x) * up x in each layer for the tokens `ids`, of which there must be some.

    With experts, of those that a token chose. SiLU gives zeros only where it underflows.
    """
    sequence = torch.as_tensor(ids, dtype=torch.int64, device=decoder.device)
    if len(sequence) == 0:
        raise BadParameter("The text has no tokens, so it has no sparsity. Give one that is not empty.")
    zeros = [0.0] * len(decoder.model.layers)
    for piece in sequence.split(_PIECE):
        with _watched(decoder, zeros):
            decoder(Batch.of_sequences(piece))
    return Sparsity(tuple(total / len(sequence) for total in zeros), len(sequence))


@contextmanager
def _watched(decoder: Trunk, zeros: list[float]) -> Iterator[None]:
    """Within it, every layer's share of zeros, summed over tokens, is added to `zeros`."""

    def watch(layer: int, x: Tensor) -> None:
        live = x[x.any(dim=-1)]  # zero rows pad a batch
        inner = as_feed_forward(decoder.model.layers[layer].mlp).inner(live).flatten(1)
        zeros[layer] += (inner == 0).double().mean(dim=1).sum().item()

    def hook(layer: int, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_pre_hook(lambda _, args: watch(layer, args[0]))

    hooks = [hook(layer, block.mlp) for layer, block in enumerate(decoder.model.layers)]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def skip_inactive(decoder: Trunk, *, rows: int = 1) -> None:
    """Read the weights of active neurons only, in forwards of up to `rows` rows, as decoding one text is.

    The result is exact, but summed in another order than larger forwards sum: a text may be continued
    differently alone and in a batch, where two tokens are almost equally likely. The native backend copies
    the feed-forwards' weights for it, bfloat16 or in 8 bits, and holds their bytes twice from then on; once
    the model is prepared anew, as when an adapter is merged, all neurons are read until this is asked again.
    Raises BadParameter, and changes nothing, for a model whose activation gives no exact zeros, that is not
    prepared, or whose weights cannot be read by neuron.
    """
    _require_skippable(decoder)
    for block in decoder.model.layers:
        block.skip_inactive(rows)
    decoder.restack()


def _require_skippable(decoder: Trunk) -> None:
    blocks = list(decoder.model.layers)
    if not all(isinstance(block.mlp, SparseMLP) for block in blocks):
        raise BadParameter(
            "This model's feed-forwards use silu, which leaves no neuron at exactly zero, so none can be "
            "skipped. Models with fatrelu (MiniCPM-S) can."
        )
    if not decoder.prepared:
        raise BadParameter("Neurons are skipped by a prepared model only. Call prepare() before.")
    for index, block in enumerate(blocks):
        if (reason := block.why_not_skip()) is not None:
            raise BadParameter(
                f"No neurons can be left out of layer {index}: {reason}. Load plain weights, or 8-bit ones "
                "for the native backend, and ask for this before adapters are added."
            )
