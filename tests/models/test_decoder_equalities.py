"""One forward computes the same whether a sequence comes whole, in pieces, packed, forked or rewound."""

import random

import pytest
import torch

from minicpm.cache import Batch, Segment
from minicpm.testing import families

# Largest difference over largest hidden value. The same float32 sums in another order over three layers;
# measured at most 1.4e-6.
FLOAT32 = 1e-5

TOKENS = 150  # two pages and a partial third

EVERY_MODEL = pytest.mark.parametrize("family", families())
EVERY_BACKEND = pytest.mark.parametrize("backend", ["reference", "torch"])
# One model of each rope and head arrangement.
SOME_MODELS = pytest.mark.parametrize(
    "family", ["minicpm-2b", "minicpm-2b-128k", "minicpm3-4b", "minicpm4-8b", "minicpm5-1b"]
)


def assert_same(found, wanted, bound=FLOAT32):
    assert found.shape == wanted.shape
    difference = ((found - wanted).abs().max() / wanted.abs().max()).item()
    assert difference <= bound, f"relative difference {difference:.2e} over {bound:.2e}"


@torch.no_grad()
def feed(decoder, cache, *parts):
    """Append the ids of each (seq, ids) part in one forward; hidden states per part."""
    for seq, ids in parts:
        assert cache.reserve(seq, len(ids))
    segments = tuple(Segment(seq, cache.length(seq), len(ids)) for seq, ids in parts)
    hidden = decoder(Batch(torch.cat([ids for _, ids in parts]), segments, cache))
    return hidden.split([len(ids) for _, ids in parts])


@torch.no_grad()
def whole(decoder, ids):
    return decoder(Batch.of_sequences(ids))


def poisoned_cache(decoder, pages):
    """A cache whose unwritten rows are NaN, so that reading one shows."""
    cache = decoder.new_cache(pages)
    for store in cache.stores:
        for tensor in vars(store).values():
            if isinstance(tensor, torch.Tensor):
                tensor.fill_(torch.nan)
    return cache


def random_cuts(total, generator):
    cuts = sorted(generator.sample(range(1, total), generator.randint(1, 8)))
    return [b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)]


@EVERY_MODEL
@EVERY_BACKEND
def test_random_chunks_through_the_cache_equal_the_whole(toy, family, backend):
    model = toy(family)
    decoder, ids = model.decoder(backend=backend), model.ids(TOKENS)
    wanted = whole(decoder, ids)
    generator = random.Random(family + backend)
    for _ in range(3):
        cache = poisoned_cache(decoder, 3)
        seq = cache.open()
        chunks = ids.split(random_cuts(TOKENS, generator))
        assert_same(torch.cat([feed(decoder, cache, (seq, chunk))[0] for chunk in chunks]), wanted)


@EVERY_MODEL
@EVERY_BACKEND
def test_token_by_token_equals_the_whole(toy, family, backend):
    model = toy(family)
    decoder, ids = model.decoder(backend=backend), model.ids(70)
    cache = poisoned_cache(decoder, 2)
    seq = cache.open()
    steps = [feed(decoder, cache, (seq, token))[0] for token in ids.split(1)]
    assert_same(torch.cat(steps), whole(decoder, ids))


@EVERY_MODEL
@EVERY_BACKEND
@pytest.mark.parametrize("lengths", [[5, 70, 1, 64], [33, 33, 33], [7, 7, 20, 1, 1, 1, 7]], ids=str)
def test_packed_sequences_equal_separate_ones(toy, family, backend, lengths):
    model = toy(family)
    decoder = model.decoder(backend=backend)
    sequences = [model.ids(n, seed=i) for i, n in enumerate(lengths)]
    with torch.no_grad():
        packed = decoder(Batch.of_sequences(*sequences)).split(lengths)
    for found, ids in zip(packed, sequences, strict=True):
        assert_same(found, whole(decoder, ids))


@SOME_MODELS
@EVERY_BACKEND
def test_sequences_packed_through_the_cache_do_not_see_each_other(toy, family, backend):
    model = toy(family)
    decoder = model.decoder(backend=backend)
    sequences = [model.ids(n, seed=n) for n in (90, 1, 64, 130)]
    cache = poisoned_cache(decoder, 10)
    handles = [cache.open() for _ in sequences]
    steps = [[] for _ in sequences]
    for first, last in [(0, 1), (1, 40), (40, 64), (64, 65), (65, 130)]:
        live = [i for i, ids in enumerate(sequences) if len(ids) > first]
        found = feed(decoder, cache, *((handles[i], sequences[i][first:last]) for i in live))
        for i, hidden in zip(live, found, strict=True):
            steps[i].append(hidden)
    for hidden, ids in zip(steps, sequences, strict=True):
        assert_same(torch.cat(hidden), whole(decoder, ids))


@SOME_MODELS
@EVERY_BACKEND
@pytest.mark.parametrize("shared", [1, 63, 64, 65, 100, 128])
def test_a_fork_continues_like_a_fresh_sequence_and_leaves_its_parent_alone(toy, family, backend, shared):
    model = toy(family)
    decoder = model.decoder(backend=backend)
    trunk, left, right = model.ids(128), model.ids(30, seed=1), model.ids(40, seed=2)
    cache = poisoned_cache(decoder, 8)
    parent = cache.open()
    feed(decoder, cache, (parent, trunk))
    child = cache.fork(parent, shared)
    on_parent, on_child = feed(decoder, cache, (parent, left), (child, right))
    assert_same(on_parent, whole(decoder, torch.cat([trunk, left]))[128:])
    assert_same(on_child, whole(decoder, torch.cat([trunk[:shared], right]))[shared:])


@SOME_MODELS
@EVERY_BACKEND
@pytest.mark.parametrize("kept", [0, 1, 63, 64, 65, 127])
def test_rewinding_and_replaying_equals_a_fresh_sequence(toy, family, backend, kept):
    model = toy(family)
    decoder = model.decoder(backend=backend)
    ids, other = model.ids(128), model.ids(20, seed=1)
    cache = poisoned_cache(decoder, 4)
    seq = cache.open()
    feed(decoder, cache, (seq, ids))
    assert cache.rewind(seq, kept) == kept
    replayed = feed(decoder, cache, (seq, other))[0]
    assert_same(replayed, whole(decoder, torch.cat([ids[:kept], other]))[kept:])


@EVERY_MODEL
@EVERY_BACKEND
def test_prepared_equals_unprepared(toy, family, backend):
    model = toy(family)
    ids = model.ids(TOKENS)
    assert_same(whole(model.decoder(backend=backend), ids), whole(model.decoder(), ids))


@EVERY_MODEL
def test_the_reference_backend_equals_the_torch_backend(toy, family):
    model = toy(family)
    ids = model.ids(TOKENS)
    assert_same(whole(model.decoder(backend="reference"), ids), whole(model.decoder(backend="torch"), ids))


@EVERY_MODEL
def test_preparing_keeps_every_published_name_and_value(toy, family):
    model = toy(family)
    prepared = dict(model.decoder(backend="auto").published_state())
    assert set(prepared) == set(model.state)
    assert all(torch.equal(prepared[name], weight) for name, weight in model.state.items())


def test_preparing_twice_changes_nothing(toy):
    model = toy("minicpm4-8b")
    decoder, ids = model.decoder(backend="torch"), model.ids(20)
    before = whole(decoder, ids)
    decoder.prepare("torch")
    assert torch.equal(whole(decoder, ids), before)


@EVERY_MODEL
def test_every_parameter_of_an_unprepared_decoder_gets_a_gradient(toy, family):
    model = toy(family)
    decoder = model.decoder()
    decoder.logits_for(model.ids(20)).logsumexp(-1).sum().backward()
    without = [
        name for name, weight in reading(decoder).items() if weight.grad is None or not weight.grad.any()
    ]
    assert without == []


@EVERY_MODEL
def test_gradients_through_packed_sequences_equal_those_of_separate_ones(toy, family):
    model = toy(family)
    sequences = [model.ids(n, seed=n) for n in (12, 12, 31)]
    packed, separate = model.decoder(), model.decoder()
    loss(packed, Batch.of_sequences(*sequences)).backward()
    for ids in sequences:
        loss(separate, Batch.of_sequences(ids)).backward()
    wanted = reading(separate)
    for name, weight in reading(packed).items():
        assert_same(weight.grad, wanted[name].grad, bound=10 * FLOAT32)  # sums over all tokens


def reading(decoder):
    """Weights that take part where there is no image."""
    seeing = ("vpm.", "resampler.", "model.vision_tower.", "model.resampler.")
    return {name: weight for name, weight in decoder.named_parameters() if not name.startswith(seeing)}


def loss(decoder, batch):
    return decoder.logits(decoder(batch)).square().sum()


def test_a_prepared_decoder_asks_for_no_gradients(toy):
    decoder = toy("minicpm4-0.5b").decoder(backend="auto")
    assert not any(weight.requires_grad for weight in decoder.parameters())


def test_no_tokens_give_no_logits(toy):
    model = toy("minicpm-1b")
    assert model.decoder().logits_for([]).shape == (0, model.raw["vocab_size"])


def test_logits_are_float32_whatever_the_weights_are(toy):
    model = toy("minicpm-1b")
    assert model.decoder(dtype=torch.bfloat16).logits_for([1, 2, 3]).dtype == torch.float32


@pytest.mark.parametrize("tokens", [1, 64, 65])
def test_a_narrower_cache_only_rounds_keys_and_values(toy, tokens):
    model = toy("minicpm4-8b")
    decoder, ids = model.decoder(backend="torch"), model.ids(tokens)
    cache = decoder.new_cache(2, dtype=torch.bfloat16)
    assert cache.nbytes == decoder.new_cache(2).nbytes // 2
    hidden = feed(decoder, cache, (cache.open(), ids))[0]
    assert_same(hidden, whole(decoder, ids), bound=4 * 2**-8)  # keys and values are rounded to 8 bits


@EVERY_MODEL
@EVERY_BACKEND
@pytest.mark.parametrize("rows", [[], [TOKENS - 1], [0, 5, 64, 5, 149]], ids=["none", "last", "some"])
def test_wanted_rows_are_those_of_the_whole(toy, family, backend, rows):
    model = toy(family)
    decoder, ids = model.decoder(backend=backend), model.ids(TOKENS)
    segments = Batch.of_sequences(ids).segments
    with torch.no_grad():
        found = decoder(Batch(ids, segments, rows=torch.tensor(rows, dtype=torch.int64)))
    assert torch.equal(found, whole(decoder, ids)[rows])
