"""Times the greedy decoding of several sequences together, without an engine around it."""

import math
from dataclasses import dataclass

import torch

from minicpm.bench.context import filled_cache, reset
from minicpm.bench.timing import Timing, repeated
from minicpm.cache import Batch, Cache, Segment
from minicpm.config.kv import AUTO
from minicpm.models.decoder import Decoder

MOST_STEPS = 64
"""Steps of a repeat: no more, for a sequence grows while it is measured."""
_FEWEST_STEPS = 8
_LEAST_S = 0.3
_WARM = 3


@torch.inference_mode()
def time_decode(decoder: Decoder, *, context: int, batch: int, repeats: int, kv: str = AUTO) -> Timing:
    """Seconds per step for `batch` sequences of `context` tokens each, one more token for each."""
    cache, sequences = filled_cache(decoder, [context] * batch, MOST_STEPS, kv=kv)
    run = _Decoding(decoder, cache, sequences)
    run.steps(_WARM)
    run.back_to(context)
    once = repeated(lambda: run.steps(_WARM), 1).median / _WARM
    count = min(max(_FEWEST_STEPS, math.ceil(_LEAST_S / once)), MOST_STEPS)
    timing = repeated(lambda: run.steps(count), repeats, between=lambda: run.back_to(context))
    return Timing(tuple(seconds / count for seconds in timing.seconds))


@dataclass(frozen=True, slots=True)
class _Decoding:
    decoder: Decoder
    cache: Cache
    sequences: list[int]

    def steps(self, count: int) -> None:
        """The most probable token `count` times, each fed into the next step."""
        for seq in self.sequences:
            taken = self.cache.reserve(seq, count)
            assert taken, "the cache has room for the steps of a repeat"
        ids = torch.zeros(len(self.sequences), dtype=torch.int64)
        for _ in range(count):
            segments = tuple(Segment(seq, self.cache.length(seq), 1) for seq in self.sequences)
            hidden = self.decoder(Batch(ids, segments, self.cache))
            ids = self.decoder.logits(hidden).argmax(dim=-1)

    def back_to(self, context: int) -> None:
        """All sequences at that length again."""
        for seq in self.sequences:
            reset(self.cache, self.decoder.config, seq, context)
