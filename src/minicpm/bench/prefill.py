"""Times the reading of a prompt up to the logits that its first token is chosen by."""

import torch
from torch import Tensor

from minicpm.bench.timing import Timing, repeated
from minicpm.cache import PAGE, Batch, Cache, Segment
from minicpm.config.kv import AUTO
from minicpm.models.decoder import Decoder

CHUNK = 512
"""Tokens per forward, as the engine's budget has it."""


@torch.inference_mode()
def time_prefill(decoder: Decoder, *, tokens: int, repeats: int, kv: str = AUTO) -> Timing:
    """Seconds from the first token of a prompt to the logits after its last."""
    cache = decoder.new_cache(-(-tokens // PAGE), kv=kv)
    ids = torch.randint(decoder.config.vocab, (tokens,), generator=torch.Generator().manual_seed(0))
    read_prompt(decoder, cache, ids[: min(tokens, PAGE)])
    return repeated(lambda: read_prompt(decoder, cache, ids), repeats)


def read_prompt(decoder: Decoder, cache: Cache, ids: Tensor, chunk: int = CHUNK) -> Tensor:
    """Logits [1, V] after a prompt that is fed in chunks to a sequence of its own, then forgotten."""
    seq = cache.open()
    try:
        taken = cache.reserve(seq, len(ids))
        assert taken, "the cache has pages for the prompt"
        hidden = torch.empty(0)
        for start, part in zip(range(0, len(ids), chunk), torch.split(ids, chunk), strict=True):
            last = torch.tensor([len(part) - 1])
            hidden = decoder(Batch(part, (Segment(seq, start, len(part)),), cache, rows=last))
        return decoder.logits(hidden)
    finally:
        cache.close(seq)
