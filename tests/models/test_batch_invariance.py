"""A token's logits do not depend on what else is computed beside it."""

import pytest
import torch

import minicpm
from minicpm.cache import Batch, Segment
from minicpm.testing import tiny_checkpoint


@pytest.fixture(scope="module", params=["minicpm4-8b", "minicpm3-4b", "minicpm-sala"])
def decoder(request, tmp_path_factory):
    return minicpm.load_decoder(
        tiny_checkpoint(request.param, tmp_path_factory.mktemp("toy")), dtype="float32"
    )


def _step(decoder, cache, sequences, ids):
    segments = tuple(Segment(seq, cache.length(seq), 1) for seq in sequences)
    for seq in sequences:
        assert cache.reserve(seq, 1)
    return decoder.logits(decoder(Batch(torch.tensor(ids), segments, cache)))


@torch.inference_mode()
@pytest.mark.parametrize("company", [1, 2, 3, 4, 6, 8])
def test_float32_decode_gives_the_same_bits_alone_and_in_any_batch(decoder, company):
    generator = torch.Generator().manual_seed(company)
    ids = torch.randint(0, decoder.config.vocab, (company + 1, 5), generator=generator).tolist()
    alone, together = decoder.new_cache(16), decoder.new_cache(16)
    seq = alone.open()
    sequences = [together.open() for _ in ids]
    for step in range(5):
        one = _step(decoder, alone, [seq], [ids[0][step]])
        many = _step(decoder, together, sequences, [row[step] for row in ids])
        assert torch.equal(one[0], many[0]), f"step {step} differs by {(one[0] - many[0]).abs().max():.2e}"
