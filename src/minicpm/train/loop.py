"""One optimizer step after another over a stream of batches."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from minicpm.models.decoder import Decoder
from minicpm.train.batches import TrainBatch
from minicpm.train.groups import set_learning_rate
from minicpm.train.schedule import Schedule

_CLIP = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """What one step did; `loss` is the mean over the tokens learned from."""

    step: int
    loss: float
    tokens: int
    learned: int
    gradient_norm: float
    factor: float
    seconds: float


def train(
    decoder: Decoder,
    optimizers: list[torch.optim.Optimizer],
    schedule: Schedule,
    batches: Iterable[TrainBatch],
    *,
    start: int = 0,
) -> Iterator[Progress]:
    """Train from step `start` to the schedule's end, yielding after every step; one batch is one step.

    Forward and backward run under bf16 autocast over the decoder's float32 weights.
    """
    for step, batch in zip(range(start, schedule.steps), batches, strict=False):
        began = time.perf_counter()
        factor = schedule.factor(step)
        set_learning_rate(optimizers, factor)
        loss = step_loss(decoder, batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(decoder.parameters(), _CLIP)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - began
        yield Progress(step + 1, loss.item(), batch.tokens, len(batch.targets), norm.item(), factor, seconds)


def step_loss(decoder: Decoder, batch: TrainBatch) -> torch.Tensor:
    """Mean cross-entropy over the rows that count; only they pass the last MLP and the head."""
    with torch.autocast(decoder.device.type, dtype=torch.bfloat16):
        logits = decoder.logits(decoder(batch.batch))
    return cross_entropy(logits, batch.targets)
