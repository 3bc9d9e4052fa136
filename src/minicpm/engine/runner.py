"""Computes one planned step: a single forward, and logits only for the rows that are sampled or scored."""

from collections.abc import Sequence as Listing
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from minicpm.cache import Batch, Cache, Segment
from minicpm.engine.logprobs import scores
from minicpm.engine.request import TokenScore
from minicpm.engine.sampler import Draw, choose
from minicpm.engine.scheduler import Work
from minicpm.engine.sight import Sight
from minicpm.models.decoder import Decoder

SCORED_ROWS = 64
"""Rows of logits held at once while scoring a prompt: a vocabulary of 150 k takes 38 MB."""


class Outcome(NamedTuple):
    """What one work gave: a draw if it reached the last known token, scores of prompt tokens by position."""

    draw: Draw | None
    prompt_scores: dict[int, TokenScore]


class Runner:
    """Runs plans on one decoder and one cache; between steps it holds what it saw of images last."""

    def __init__(self, decoder: Decoder, cache: Cache) -> None:
        self._decoder = decoder
        self._cache = cache
        self._sight = Sight(decoder)

    @torch.inference_mode()
    def run(self, works: Listing[Work]) -> list[Outcome]:
        """One outcome per work; the cache then holds the works' tokens. Room must have been reserved."""
        wanted = [_wanted(work) for work in works]
        hidden = self._decoder(self._batch(works, wanted)).split(wanted)
        sampled = [i for i, work in enumerate(works) if work.samples]
        draws = self._choose([hidden[i][-1:] for i in sampled], [works[i] for i in sampled])
        by_work = dict(zip(sampled, draws, strict=True))
        return [
            Outcome(by_work.get(i), self._score(rows, work))
            for i, (rows, work) in enumerate(zip(hidden, works, strict=True))
        ]

    def _batch(self, works: Listing[Work], wanted: Listing[int]) -> Batch:
        device = self._decoder.device
        tokens = [t for w in works for t in w.sequence.tokens[w.start : w.start + w.count]]
        ids = torch.tensor(tokens, device=device)
        segments = tuple(Segment(w.sequence.handle, w.start, w.count, w.sequence.adapter) for w in works)
        ends = accumulate(work.count for work in works)
        rows = [row for end, count in zip(ends, wanted, strict=True) for row in range(end - count, end)]
        return Batch(
            ids,
            segments,
            self._cache,
            rows=None if len(rows) == len(ids) else torch.tensor(rows, dtype=torch.int64, device=device),
            embedded=self._sight.embedded(works, ids),
        )

    def _choose(self, rows: list[Tensor], works: list[Work]) -> list[Draw]:
        if not works:
            return []
        return choose(self._decoder.logits(torch.cat(rows)), [w.sequence for w in works])

    def _score(self, hidden: Tensor, work: Work) -> dict[int, TokenScore]:
        """Scores of the prompt tokens that hidden [count, D] predicts, each row the next position."""
        wanted, sequence = work.sequence.params.prompt_logprobs, work.sequence
        if wanted is None or not sequence.unscored:
            return {}
        first, last = work.start + 1, min(work.start + work.count + 1, sequence.prompt_length)
        found: dict[int, TokenScore] = {}
        for start in range(first, last, SCORED_ROWS):
            stop = min(start + SCORED_ROWS, last)
            logits = self._decoder.logits(hidden[start - first : stop - first])
            tokens = sequence.tokens[start:stop].tolist()
            found |= zip(range(start, stop), scores(logits, tokens, wanted), strict=True)
        return found


def _wanted(work: Work) -> int:
    """How many of its last rows a work needs: all to score a prompt, one to sample, else none."""
    scored = work.sequence.params.prompt_logprobs is not None and work.sequence.unscored
    return work.count if scored else int(work.samples)
