"""The calibration text on its way through the layers: the hidden states of every sequence."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from minicpm.config import ModelConfig
from minicpm.convert.quantizing.parts import Source
from minicpm.convert.texts import Sequences
from minicpm.layers.block import Block
from minicpm.layers.step import Step
from minicpm.ops.backend import TORCH


class Run(NamedTuple):
    """What a block is given for some sequences: hidden states float32 [T, D], and what its layers share."""

    h: Tensor
    step: Step

    def beyond(self, skipped: int) -> Tensor:
        """The rows [n] of all positions but the first `skipped` of each sequence."""
        places = torch.cat([torch.arange(segment.count) for segment in self.step.segments])
        return (places >= skipped).nonzero()[:, 0].to(self.h.device)


class Flow:
    """Hidden states float32 of all calibration tokens, which is the working set beside one layer."""

    def __init__(self, source: Source, sequences: Sequences, device: torch.device) -> None:
        self._config = source.config
        self._device = device
        self._batches = list(sequences.batches())
        self._hidden = list(_embedded(source, [batch.ids for batch in self._batches]))

    @staticmethod
    def nbytes(config: ModelConfig, tokens: int) -> int:
        """Bytes of the hidden states of so many tokens."""
        return 4 * tokens * config.hidden

    def runs(self) -> Iterator[Run]:
        """What the next block is given, some sequences at a time, on the device."""
        for batch, h in zip(self._batches, self._hidden, strict=True):
            there = replace(batch, ids=batch.ids.to(self._device))
            step = Step.of(there, self._config.rope, TORCH, causal=self._config.causal)
            yield Run(h.to(self._device), step)

    @torch.no_grad()
    def advance(self, block: Block) -> None:
        """Let all sequences pass a block."""
        for place, (h, step) in enumerate(self.runs()):
            self._hidden[place] = block(h, step).to("cpu")


def _embedded(source: Source, batches: Sequence[Tensor]) -> Iterator[Tensor]:
    """What enters the first layer, [T, D] for each batch of ids."""
    matrix = source.read(f"{source.embedding}.weight")
    for ids in batches:
        yield matrix[ids].float() * source.config.embed_scale
