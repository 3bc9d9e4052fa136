"""A sparse layer gives the same whole, in chunks, token by token, forked, rewound and packed."""

import itertools
from dataclasses import replace

import pytest
import torch

from minicpm.cache import Batch, Segment
from minicpm.config import (
    GQA,
    DefaultRope,
    Dense,
    InfLLM,
    LayerConfig,
    ModelConfig,
    SparseConfig,
)
from minicpm.config.memory import cache_bytes
from minicpm.layers.attention import Attention
from minicpm.layers.sparse_attention import SparseAttention
from minicpm.layers.step import Step
from minicpm.models.decoder import Decoder
from minicpm.ops.backend import REFERENCE, TORCH
from minicpm.ops.rope import rope_angles
from minicpm.ops.sparse import Scorer, cpu

# Largest difference over largest hidden value: float32 sums in another order; measured at most 6e-6.
FLOAT32 = 2e-5

HIDDEN, VOCAB = 16, 31
# Five blocks of 16 tokens: the first, three local ones and one that is chosen, from position 80 on.
SMALL = SparseConfig(kernel_size=8, kernel_stride=4, block_size=16, window_size=32, topk=3, dense_len=-1)
PUBLISHED = SparseConfig(dense_len=-1)
PLAIN = GQA(4, 2, 6)
BOUNDARIES = [15, 16, 31, 32, 63, 64, 65, 79, 80, 81, 127, 150]

KINDS = {
    "plain": InfLLM(PLAIN, SMALL),
    "one group": InfLLM(GQA(8, 1, 4), SMALL),
    "without rope, gated": InfLLM(GQA(4, 2, 6, rotary=False, gated=True), SMALL),
    "chosen by unrotated keys": InfLLM(PLAIN, replace(SMALL, use_nope=True)),
    "dense up to 100": InfLLM(PLAIN, replace(SMALL, dense_len=100)),
    "wide kernels": InfLLM(GQA(3, 3, 4), replace(SMALL, kernel_size=32, kernel_stride=16)),
}
EVERY_KIND = pytest.mark.parametrize("mixer", KINDS.values(), ids=KINDS)
SOME_KINDS = pytest.mark.parametrize("mixer", [KINDS["plain"], KINDS["chosen by unrotated keys"]], ids=str)


def config_of(mixer, layers=2):
    return ModelConfig(
        family="toy",
        hidden=HIDDEN,
        vocab=VOCAB,
        layers=(LayerConfig(mixer, Dense(24)),) * layers,
        rope=DefaultRope(1e4, mixer.head_dim),
        context=1 << 14,
        norm_eps=1e-5,
        embed_scale=1.0,
        residual_scale=0.5,
        logit_scale=1.0,
        tied=True,
        dtype="float32",
        bos=1,
        eos=(2,),
        pad=None,
    )


def decoder_of(mixer, layers=2, seed=0):
    torch.manual_seed(seed)
    decoder = Decoder(config_of(mixer, layers)).requires_grad_(False)
    for name, weight in decoder.named_parameters():
        if weight.ndim > 1:
            # Large queries and keys, so that attention is sharp and a wrong block shows.
            scale = 3.0 if "q_proj" in name or "k_proj" in name else 1.0
            weight.normal_(0, scale / weight.shape[-1] ** 0.5)
    return decoder


def ids_of(count, seed=0):
    return torch.randint(VOCAB, (count,), generator=torch.Generator().manual_seed(seed))


def assert_same(found, wanted, bound=FLOAT32):
    assert found.shape == wanted.shape
    difference = ((found - wanted).abs().max() / wanted.abs().max()).item()
    assert difference <= bound, f"relative difference {difference:.2e} over {bound:.2e}"


def cache_of(decoder, pages):
    """A cache whose unwritten rows are NaN, so that reading one shows."""
    cache = decoder.new_cache(pages)
    for store in cache.stores:
        for tensor in (store.k, store.v, store.compressed, store.unrotated):
            if tensor is not None:
                tensor.fill_(torch.nan)
    return cache


def feed(decoder, cache, *parts):
    """Append the ids of each (seq, ids) part in one forward; hidden states per part."""
    for seq, ids in parts:
        assert cache.reserve(seq, len(ids))
    segments = tuple(Segment(seq, cache.length(seq), len(ids)) for seq, ids in parts)
    hidden = decoder(Batch(torch.cat([ids for _, ids in parts]), segments, cache))
    return hidden.split([len(ids) for _, ids in parts])


def whole(decoder, ids):
    return decoder(Batch.of_sequences(ids))


def in_chunks(decoder, ids, sizes):
    cache = cache_of(decoder, -(-len(ids) // 64))
    seq = cache.open()
    return torch.cat([feed(decoder, cache, (seq, chunk))[0] for chunk in ids.split(sizes)])


@EVERY_KIND
@pytest.mark.parametrize("chunk", [*BOUNDARIES, 200])
def test_chunks_equal_the_whole(mixer, chunk):
    decoder, ids = decoder_of(mixer), ids_of(200)
    assert_same(in_chunks(decoder, ids, chunk), whole(decoder, ids))


@EVERY_KIND
def test_token_by_token_equals_the_whole(mixer):
    decoder, ids = decoder_of(mixer), ids_of(150)
    assert_same(in_chunks(decoder, ids, 1), whole(decoder, ids))


@SOME_KINDS
@pytest.mark.parametrize("length", BOUNDARIES)
def test_at_every_boundary_the_last_tokens_equal_the_whole(mixer, length):
    decoder, ids = decoder_of(mixer), ids_of(length)
    sizes = [length - 4, 1, 1, 1, 1]
    assert_same(in_chunks(decoder, ids, sizes), whole(decoder, ids))


@EVERY_KIND
def test_a_prepared_layer_and_the_reference_backend_equal_it(mixer):
    decoder, ids = decoder_of(mixer), ids_of(110)
    wanted = whole(decoder, ids)
    for backend in ("reference", "torch"):
        decoder.prepare(backend)
        assert_same(whole(decoder, ids), wanted)


def test_the_sparse_layer_differs_from_the_dense_one():
    """What the equalities above compare is not dense attention."""
    dense, sparse = decoder_of(PLAIN), decoder_of(KINDS["plain"])
    ids = ids_of(150)
    found, wanted = whole(sparse, ids), whole(dense, ids)
    assert_same(found[:80], wanted[:80])
    assert (found[100:] - wanted[100:]).abs().max() > 0.01


@pytest.mark.parametrize("dense_len", [1, 85, 100, 149, 150, 151, 500])
def test_a_position_is_dense_below_dense_len_and_sparse_from_there(dense_len):
    ids = ids_of(150)
    dense, sparse = (whole(decoder_of(m, layers=1), ids) for m in (PLAIN, KINDS["plain"]))
    found = whole(decoder_of(InfLLM(PLAIN, replace(SMALL, dense_len=dense_len)), layers=1), ids)
    # Position i is the last of i + 1 tokens.
    edge = min(max(dense_len - 1, 80), 150)
    assert_same(found[:edge], dense[:edge])
    if edge < 150:
        assert_same(found[edge:], sparse[edge:])


@SOME_KINDS
@pytest.mark.parametrize("shared", [1, 7, 63, 64, 65, 100, 128])
def test_a_fork_continues_like_a_fresh_sequence_and_leaves_its_parent_alone(mixer, shared):
    decoder = decoder_of(mixer)
    trunk, left, right = ids_of(128), ids_of(60, seed=1), ids_of(110, seed=2)
    cache = cache_of(decoder, 9)
    parent = cache.open()
    feed(decoder, cache, (parent, trunk))
    child = cache.fork(parent, shared)
    on_parent, on_child = feed(decoder, cache, (parent, left), (child, right))
    assert_same(on_parent, whole(decoder, torch.cat([trunk, left]))[128:])
    assert_same(on_child, whole(decoder, torch.cat([trunk[:shared], right]))[shared:])


@SOME_KINDS
@pytest.mark.parametrize("kept", [0, 1, 7, 63, 64, 65, 90, 127])
def test_rewinding_and_replaying_equals_a_fresh_sequence(mixer, kept):
    decoder = decoder_of(mixer)
    ids, other = ids_of(128), ids_of(70, seed=1)
    cache = cache_of(decoder, 4)
    seq = cache.open()
    feed(decoder, cache, (seq, ids))
    assert cache.rewind(seq, kept) == kept
    replayed = [feed(decoder, cache, (seq, part))[0] for part in other.split([1, 3, 66])]
    assert_same(torch.cat(replayed), whole(decoder, torch.cat([ids[:kept], other]))[kept:])


@EVERY_KIND
def test_packed_sequences_equal_separate_ones(mixer):
    decoder, lengths = decoder_of(mixer), [5, 130, 1, 90, 90]
    sequences = [ids_of(n, seed=i) for i, n in enumerate(lengths)]
    packed = decoder(Batch.of_sequences(*sequences)).split(lengths)
    cache = cache_of(decoder, 10)
    cached = feed(decoder, cache, *((cache.open(), ids) for ids in sequences))
    for found, stored, ids in zip(packed, cached, sequences, strict=True):
        assert_same(found, whole(decoder, ids))
        assert_same(stored, whole(decoder, ids))


@SOME_KINDS
def test_sequences_on_scattered_pages_equal_the_whole(mixer):
    decoder = decoder_of(mixer)
    sequences = [ids_of(200, seed=1), ids_of(200, seed=2)]
    cache = cache_of(decoder, 8)
    handles = [cache.open(), cache.open()]
    steps = [
        feed(decoder, cache, *zip(handles, parts, strict=True))
        for parts in zip(*(ids.split(25) for ids in sequences), strict=True)
    ]
    for ids, found in zip(sequences, zip(*steps, strict=True), strict=True):
        assert_same(torch.cat(found), whole(decoder, ids))


@EVERY_KIND
def test_gradients_of_packed_sequences_equal_those_of_separate_ones(mixer):
    # Rows in multiples of 16: others round otherwise on some processors, and close blocks change places.
    sequences = [ids_of(n, seed=n) for n in (16, 96, 144)]
    packed, separate = (decoder_of(mixer).requires_grad_() for _ in range(2))
    packed(Batch.of_sequences(*sequences)).square().sum().backward()
    for ids in sequences:
        whole(separate, ids).square().sum().backward()
    wanted = dict(separate.named_parameters())
    for name, weight in packed.named_parameters():
        assert weight.grad.any(), f"{name} has no gradient"
        assert_same(weight.grad, wanted[name].grad, bound=10 * FLOAT32)  # sums over all tokens


def step_of(lengths, mixer, ops=TORCH):
    batch = Batch.of_sequences(*(torch.zeros(n, dtype=torch.int64) for n in lengths))
    angles = rope_angles(DefaultRope(1e4, mixer.head_dim), batch.positions)
    return Step(ops, angles, batch.segments, None, None)


@pytest.mark.parametrize("use_nope", [False, True])
def test_unrotated_keys_choose_only_when_asked_to(use_nope):
    """The choice is by keys before rotation or after it; attention itself is by rotated ones always."""
    torch.manual_seed(0)
    sparse = replace(SMALL, use_nope=use_nope)
    layer = SparseAttention(HIDDEN, InfLLM(PLAIN, sparse), layer=0).requires_grad_(False)
    x = torch.randn(120, HIDDEN)
    step = step_of([120], PLAIN)
    q, k, v = (p(x).unflatten(-1, (-1, 6)) for p in (layer.q_proj, layer.k_proj, layer.v_proj))
    turned_q, turned_k = TORCH.rotate(q, step.angles), TORCH.rotate(k, step.angles)
    choosing = (q, k) if use_nope else (turned_q, turned_k)
    scorer = Scorer(choosing[0], cpu.compress(choosing[1], sparse))
    wanted = layer.o_proj(cpu.attend(turned_q, turned_k, v, scorer, sparse).flatten(1))
    assert_same(layer(x, step), wanted)


def test_names_are_those_of_dense_attention():
    gated = GQA(4, 2, 6, gated=True)
    dense, sparse = Attention(HIDDEN, gated, layer=0), SparseAttention(HIDDEN, InfLLM(gated, SMALL), layer=0)
    assert list(dense.state_dict()) == list(sparse.state_dict())


@EVERY_KIND
def test_the_cache_takes_what_the_config_says(mixer):
    mixer = replace(mixer, sparse=replace(mixer.sparse, block_size=64))
    decoder = Decoder(config_of(mixer))
    assert decoder.new_cache(3).nbytes == cache_bytes(decoder.config, 3 * 64, "float32")


def test_a_narrower_cache_only_rounds_keys_and_values():
    decoder, ids = decoder_of(KINDS["plain"], layers=1), ids_of(120)
    cache = decoder.new_cache(2, dtype=torch.bfloat16)
    hidden = feed(decoder, cache, (cache.open(), ids))[0]
    steps = decoder.new_cache(2, dtype=torch.bfloat16)
    seq = steps.open()
    token_by_token = torch.cat([feed(decoder, steps, (seq, token))[0] for token in ids.split(1)])
    assert_same(token_by_token, hidden)
    dense = InfLLM(PLAIN, replace(SMALL, dense_len=1000))
    rounded = decoder_of(dense, layers=1)
    assert_same(
        feed(rounded, (c := rounded.new_cache(2, dtype=torch.bfloat16)), (c.open(), ids))[0],
        whole(rounded, ids),
        bound=8 * 2**-8,  # sharp scores of rounded keys
    )


def test_published_geometry_is_dense_up_to_6144_tokens():
    dense, sparse = GQA(2, 1, 4), InfLLM(GQA(2, 1, 4), PUBLISHED)
    ids = ids_of(6144)
    found, wanted = (whole(decoder_of(m, layers=1), ids) for m in (sparse, dense))
    assert_same(found, wanted)


@pytest.mark.parametrize("length", [2047, 2048, 2080, 2113, 6143, 6144, 6145, 6209])
def test_published_geometry_in_chunks_and_token_by_token_equals_the_whole(length):
    decoder, ids = decoder_of(InfLLM(GQA(2, 1, 4), PUBLISHED), layers=1), ids_of(length)
    tail = [1] * 5
    sizes = [1000] * ((length - 5) // 1000) + [(length - 5) % 1000] + tail
    assert_same(in_chunks(decoder, ids, sizes), whole(decoder, ids))


@pytest.mark.slow
@pytest.mark.parametrize("dense_len", [-1, 8192])
@pytest.mark.parametrize("length", [8191, 8192, 8193, 8257])
def test_published_geometry_around_its_dense_length(length, dense_len):
    mixer = InfLLM(GQA(2, 1, 4), replace(PUBLISHED, dense_len=dense_len))
    decoder, ids = decoder_of(mixer), ids_of(length)
    sizes = [2048, 4096, length - 6144 - 70, *[1] * 70]
    assert_same(in_chunks(decoder, ids, sizes), whole(decoder, ids))


@EVERY_KIND
def test_random_chunks_equal_the_whole(mixer):
    decoder = decoder_of(mixer)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        length = int(torch.randint(100, 300, (1,), generator=generator))
        cuts = sorted({*torch.randint(1, length, (6,), generator=generator).tolist()})
        sizes = [b - a for a, b in itertools.pairwise([0, *cuts, length])]
        ids = ids_of(length, seed)
        assert_same(in_chunks(decoder, ids, sizes), whole(decoder, ids))


@pytest.mark.parametrize("lengths", [[120], [90, 3, 101]], ids=str)
def test_the_layer_on_the_reference_backend_equals_torch_with_gradients(lengths):
    results = []
    for ops in (TORCH, REFERENCE):
        torch.manual_seed(0)
        layer = SparseAttention(HIDDEN, KINDS["plain"], layer=0)
        x = torch.randn(sum(lengths), HIDDEN).requires_grad_()
        out = layer(x, step_of(lengths, PLAIN, ops))
        out.square().sum().backward()
        results.append([out.detach(), x.grad, *(p.grad for p in layer.parameters())])
    for found, wanted in zip(*results, strict=True):
        assert_same(found, wanted)
