"""A comparison is exact, whatever it is cut into, and knows what it compares."""

import math
from dataclasses import replace

import pytest
import torch

from minicpm.checkpoint import load, open_checkpoint
from minicpm.convert import quality
from minicpm.convert.quality import Compared, compare, require_same_vocabulary
from minicpm.convert.texts import Sequences
from minicpm.errors import BadInput
from minicpm.testing import tiny_checkpoint


def compared(folder, **options):
    checkpoint = open_checkpoint(folder)
    return Compared(folder.name, checkpoint, load(checkpoint, backend="torch", dtype="float32", **options))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two toys of one shape and other weights."""
    root = tmp_path_factory.mktemp("pair")
    return [compared(tiny_checkpoint("minicpm4-0.5b", root / str(i), seed=i)) for i in range(2)]


@pytest.fixture(scope="module")
def text(pair):
    """Random sequences of several lengths."""
    g, vocab = torch.Generator().manual_seed(5), pair[0].decoder.config.vocab
    return Sequences(
        tuple(torch.randint(0, vocab, (n,), generator=g) for n in (40, 2, 600, 500, 17)), "random"
    )


def slowly(a, b, text):
    """Every number by its definition, token by token, in float64."""
    divergences, losses, same = [], [0.0, 0.0], 0
    for ids in text.ids:
        logs = [m.decoder.logits_for(ids).double().log_softmax(-1) for m in (a, b)]
        for t in range(len(ids) - 1):
            p, q = logs[0][t], logs[1][t]
            divergences.append(sum(p.exp() * (p - q)).item())
            losses = [loss - log[t, ids[t + 1]].item() for loss, log in zip(losses, logs, strict=True)]
            same += int(p.argmax() == q.argmax())
    return divergences, [math.exp(loss / len(divergences)) for loss in losses], same / len(divergences)


@pytest.mark.parametrize("logits", [300, 1 << 22])
def test_numbers_are_those_of_their_definitions(logits, pair, text, monkeypatch):
    monkeypatch.setattr(quality, "_LOGITS", logits * 10)
    short = Sequences(text.ids[:2] + text.ids[4:], "random")
    found = compare(*pair, short)
    divergences, perplexities, top1 = slowly(*pair, short)
    torch.testing.assert_close(found.kl.double(), torch.tensor(divergences).double(), rtol=1e-4, atol=1e-5)
    assert found.a.perplexity == pytest.approx(perplexities[0], rel=1e-4)
    assert found.b.perplexity == pytest.approx(perplexities[1], rel=1e-4)
    assert found.top1 == pytest.approx(top1)
    ranked = sorted(divergences)
    assert found.kl_p99 == pytest.approx(ranked[math.ceil(0.99 * len(ranked)) - 1], rel=1e-4)


def test_batches_change_nothing(pair, text):
    whole = compare(*pair, text)
    one_by_one = torch.cat([compare(*pair, Sequences((ids,), "one")).kl for ids in text.ids])
    assert whole.tokens == text.tokens - len(text.ids)
    torch.testing.assert_close(whole.kl, one_by_one, rtol=1e-4, atol=1e-5)


def test_a_model_beside_itself_diverges_nowhere(pair, text):
    found = compare(pair[0], pair[0], text)
    assert found.kl.count_nonzero() == 0
    assert found.top1 == 1
    assert found.perplexity_ratio == 1


def test_bytes_and_bits_are_those_stored(pair, text):
    found = compare(*pair, replace(text, ids=text.ids[:1]))
    side = found.document()["a"]
    assert side["weight_bytes"] == pair[0].checkpoint.total_bytes
    assert 32 <= side["bits_per_weight"] < 40  # a toy in float32, whose unused head is stored as well


def test_other_vocabularies_are_refused(pair, text, tmp_path):
    other = compared(tiny_checkpoint("minicpm5-1b", tmp_path / "other"))
    with pytest.raises(BadInput, match="different vocabularies"):
        require_same_vocabulary(pair[0].checkpoint, other.checkpoint, text)
    if other.decoder.config.vocab != pair[0].decoder.config.vocab:
        with pytest.raises(BadInput, match="cannot be compared"):
            compare(pair[0], other, text)
    require_same_vocabulary(pair[0].checkpoint, pair[1].checkpoint, text)
