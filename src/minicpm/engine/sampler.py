"""Chooses the next token of every row of logits."""

from collections.abc import Sequence as Listing
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minicpm.engine.logprobs import score
from minicpm.engine.penalties import adjusted
from minicpm.engine.request import Sequence, TokenScore
from minicpm.engine.sampling import SamplingParams

NUCLEUS_CANDIDATES = 1024
"""Most nuclei are smaller, and sorting a whole vocabulary costs ten times as much as finding these."""


class Draw(NamedTuple):
    """The token chosen for a row; None when no token of the row has a finite largest logit."""

    token: int | None
    score: TokenScore | None = None


def choose(logits: Tensor, sequences: Listing[Sequence]) -> list[Draw]:
    """One draw per row of logits [R, V] float32, for the sequence at the same place.

    Rows are treated one by one, so a choice depends on its own row, the sequence's tokens, seed and position,
    and never on what shares the batch.
    """
    largest, at = logits.max(-1)
    likeliest, finite = at.tolist(), largest.isfinite().tolist()
    return [_draw(logits[r], s, likeliest[r]) if finite[r] else Draw(None) for r, s in enumerate(sequences)]


def _draw(row: Tensor, sequence: Sequence, likeliest: int) -> Draw:
    params = sequence.params
    token = likeliest if params.greedy and params.plain else _pick(adjusted(row, sequence), sequence)
    if token is None or params.logprobs is None:
        return Draw(token)
    return Draw(token, score(row, token, params.logprobs))


def _pick(row: Tensor, sequence: Sequence) -> int | None:
    if not row.max().isfinite():
        return None
    if sequence.params.greedy:
        return int(row.argmax())
    return invert(kept_weights(row, sequence.params), uniform(sequence.seed, len(sequence.tokens)))


def uniform(seed: int, position: int) -> float:
    """The number in [0, 1) that belongs to a seed and a position, by the counter-based Philox generator.

    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    key = np.array([seed, position], dtype=np.uint64)
    return float(np.random.Generator(np.random.Philox(key=key)).random())


def invert(weights: Tensor, u: float) -> int:
    """The id at which the running sum of weights [V] float64 passes u of the total."""
    sums = weights.cumsum(0)
    place = int(torch.searchsorted(sums, u * sums[-1], right=True))
    # u * total may round up to the total, and then no sum passes it.
    return place if place < len(weights) else int(weights.nonzero()[-1])


def kept_weights(row: Tensor, params: SamplingParams) -> Tensor:
    """Unnormalised probabilities [V] float64 after temperature, top_k, top_p, min_p; 0 for dropped tokens.

    Every filter is a threshold, so that tied tokens stay or go together.
    """
    weights = ((row.double() - row.max()) / params.temperature).exp()
    if 0 < params.top_k < len(weights):
        weights = _at_least(weights, weights.topk(params.top_k).values[-1])
    if params.top_p < 1:
        weights = _at_least(weights, _nucleus_edge(weights, params.top_p))
    return _at_least(weights, weights.new_tensor(params.min_p)) if params.min_p else weights


def _at_least(weights: Tensor, edge: Tensor) -> Tensor:
    return weights.where(weights >= edge, 0.0)


def _nucleus_edge(weights: Tensor, top_p: float) -> Tensor:
    """Weight of the last token of the smallest set that holds top_p of the sum.

    Holtzman et al., arXiv:1904.09751, section 3.1.
    """
    wanted = top_p * weights.sum()
    descending = weights.topk(min(NUCLEUS_CANDIDATES, len(weights))).values
    sums = descending.cumsum(0)
    if sums[-1] < wanted:
        descending = weights.sort(descending=True).values
        sums = descending.cumsum(0)
    return descending[torch.searchsorted(sums, wanted).clamp(max=len(sums) - 1)]
