"""Drafts follow their formulas, written out token by token, however a sequence is fed to them."""

import math

import pytest
import torch
from torch.nn.functional import silu

from minicpm.cache import Batch, Segment
from minicpm.checkpoint import load, load_draft, open_checkpoint
from minicpm.errors import BadParameter
from minicpm.models.drafts.vocabulary import Vocabulary
from minicpm.testing import tiny_checkpoint, tiny_draft

# Relative to the largest value. The reference runs in float64 on float32 weights; measured at most 5e-7.
FLOAT32 = 1e-5

KINDS = ("eagle2-frspec", "eagle2-vllm", "eagle3")
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
EVERY_BACKEND = pytest.mark.parametrize("backend", [None, "reference", "torch"])
TOKENS = 70  # a page and a partial second
HEADS = 4


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A toy of MiniCPM4.1, whose layers have muP scales."""
    folder = tiny_checkpoint("minicpm4.1-8b", tmp_path_factory.mktemp("target"), num_hidden_layers=5)
    return load(open_checkpoint(folder))


@pytest.fixture(scope="module")
def draft_of(target, tmp_path_factory):
    """draft_of(kind, backend, **options): the draft of a kind; unprepared unless a backend is named."""
    folders = {kind: tiny_draft(kind, tmp_path_factory.mktemp(kind), target.config) for kind in KINDS}

    def make(kind, backend=None, **options):
        prepare = backend is not None
        return load_draft(folders[kind], target, backend=backend or "auto", prepare=prepare, **options)

    return make


def ids_of(target, count, seed=0):
    return torch.randint(target.config.vocab, (count,), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def seen(target, draft, ids):
    """The draft's features of a text's tokens but the last, and the tokens that follow them."""
    hidden = target.forward_with_features(Batch.of_sequences(ids), draft.taps)
    return draft.features(hidden)[:-1], ids[1:]


def assert_same(found, wanted, bound=FLOAT32):
    assert found.shape == wanted.shape
    difference = ((found.double() - wanted.double()).abs().max() / wanted.abs().max()).item()
    assert difference <= bound, f"relative difference {difference:.2e} over {bound:.2e}"


# The formulas, in float64, one position and one head at a time.


def norm(x, weight, eps=1e-5):
    return x / torch.sqrt((x * x).mean() + eps) * weight


def turned(x, t, rope):
    """One head's vector at position t, rotated as LongRoPE within its original length does."""
    half, out = len(x) // 2, torch.empty_like(x)
    for i in range(half):
        angle = t / rope.short[i] * rope.theta ** (-2 * i / len(x))
        cos, sin = math.cos(angle) * rope.attention_scale, math.sin(angle) * rope.attention_scale
        out[i], out[i + half] = x[i] * cos - x[i + half] * sin, x[i + half] * cos + x[i] * sin
    return out


def attention(rows, weights, prefix, rope):
    """Causal attention of each row over those before it, by loops over positions and heads."""
    width, past, outs = rope.dim, [], []
    for t, row in enumerate(rows):
        q, k, v = (weights[f"{prefix}self_attn.{name}_proj.weight"] @ row for name in "qkv")
        q, k, v = (x.view(-1, width) for x in (q, k, v))
        past.append((torch.stack([turned(head, t, rope) for head in k]), v))
        heads = []
        for h in range(len(q)):
            own, group = turned(q[h], t, rope), h // (len(q) // len(k))
            scores = torch.stack([own @ keys[group] for keys, _ in past]) / math.sqrt(width)
            shares = scores.softmax(0)
            heads.append(sum(share * values[group] for share, (_, values) in zip(shares, past, strict=True)))
        outs.append(weights[f"{prefix}self_attn.o_proj.weight"] @ torch.cat(heads))
    return outs


def feed_forward(x, weights, prefix):
    gate, up, down = (weights[f"{prefix}mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
    return down @ (silu(gate @ x) * (up @ x))


def finished(streams, mixed, weights, prefix, scale):
    outs = []
    for before, m in zip(streams, mixed, strict=True):
        r = before + scale * m
        x = norm(r, weights[f"{prefix}post_attention_layernorm.weight"])
        outs.append(r + scale * feed_forward(x, weights, prefix))
    return torch.stack(outs)


def eagle2_by_loops(target, draft, features, following):
    weights = {name: w.double() for name, w in draft.named_parameters()}
    embedding = target.model.embed_tokens.weight.double()
    x = []
    for h, token in zip(features.double(), following, strict=True):
        embedded = norm(embedding[token] * 12, weights["input_norm1.weight"])
        x.append(weights["fc.weight"] @ torch.cat((embedded, norm(h, weights["input_norm2.weight"]))))
    normed = [norm(row, weights["layers.0.input_layernorm.weight"]) for row in x]
    mixed = attention(normed, weights, "layers.0.", target.config.rope)
    y = finished(x, mixed, weights, "layers.0.", 1.4 / math.sqrt(32))
    return y, (y / target.config.logit_scale) @ target.head.double().T


def eagle3_by_loops(target, draft, r, following):
    weights = {name: w.double() for name, w in draft.named_parameters()}
    embedding, r = target.model.embed_tokens.weight.double(), r.double()
    z = [
        torch.cat(
            (
                norm(embedding[token], weights["midlayer.input_layernorm.weight"]),
                norm(row, weights["midlayer.hidden_norm.weight"]),
            )
        )
        for row, token in zip(r, following, strict=True)
    ]
    mixed = attention(z, weights, "midlayer.", target.config.rope)
    out = finished(list(r), mixed, weights, "midlayer.", 1.0)
    normed = torch.stack([norm(row, weights["norm.weight"]) for row in out])
    return out, normed @ weights["lm_head.weight"].T


@EVERY_KIND
@EVERY_BACKEND
@torch.no_grad()
def test_a_draft_follows_its_formula(target, draft_of, kind, backend):
    draft = draft_of(kind, backend)
    features, following = seen(target, draft, ids_of(target, 12))
    by_loops = eagle3_by_loops if kind == "eagle3" else eagle2_by_loops
    wanted, logits = by_loops(target, draft, features, following)
    found = draft(Batch.of_sequences(following), features)
    assert_same(found, wanted)
    assert_same(draft.logits(found), logits)
    again, later = by_loops(target, draft, found, following)  # the next guess is made from the draft's own
    assert_same(draft(Batch.of_sequences(following), found), again)
    assert_same(draft.logits(again.float()), later)


@torch.no_grad()
def test_the_features_are_what_enters_the_layers_named(target):
    """Written out block by block, with and without a cache."""
    ids = ids_of(target, 20)
    step = target._step(Batch.of_sequences(ids))
    stream = [target.model.embed_tokens(ids) * 12]
    for block in target.model.layers:
        stream.append(block(stream[-1], step))
    cache = target.new_cache(1)
    seq = cache.open()
    cache.reserve(seq, 20)
    batches = [Batch.of_sequences(ids), Batch(ids, (Segment(seq, 0, 20),), cache)]
    for batch in batches:
        hidden = target.forward_with_features(batch, (4, 0, 2, 2))
        assert_same(hidden.last, target.model.norm(stream[-1], target.backend))
        for found, layer in zip(hidden.features, (4, 0, 2, 2), strict=True):
            assert_same(found, stream[layer])


@torch.no_grad()
def test_a_forward_that_also_gives_features_is_the_same_forward(target):
    batch = Batch.of_sequences(ids_of(target, 9), ids_of(target, 5, seed=1))
    hidden = target.forward_with_features(batch, (1, 3))
    assert torch.equal(hidden.last, target(batch))
    assert [feature.shape for feature in hidden.features] == [(14, 64)] * 2


@torch.no_grad()
def test_the_three_features_are_joined_in_their_order_and_scaled(target, draft_of):
    draft, batch = draft_of("eagle3", tap_scale=0.25), Batch.of_sequences(ids_of(target, 6))
    hidden = target.forward_with_features(batch, draft.taps)
    parts = draft.fc.weight.double().split(64, dim=1)
    wanted = sum(0.25 * a.double() @ w.T for a, w in zip(hidden.features, parts, strict=True))
    assert_same(draft.features(hidden), wanted)


@EVERY_KIND
@EVERY_BACKEND
@pytest.mark.parametrize("sizes", [[TOKENS], [1] * 5 + [TOKENS - 5], [63, 1, 6], [64, 6]], ids=str)
@torch.no_grad()
def test_chunks_through_the_cache_equal_the_whole(target, draft_of, kind, backend, sizes):
    draft = draft_of(kind, backend)
    features, following = seen(target, draft, ids_of(target, TOKENS + 1))
    wanted = draft(Batch.of_sequences(following), features)
    cache = draft.new_cache(3)
    other = cache.open()  # takes the first page, so that rows are not where a fresh sequence has them
    assert cache.reserve(other, 1)
    seq, start, found = cache.open(), 0, []
    for size in sizes:
        assert cache.reserve(seq, size)
        rows = slice(start, start + size)
        found.append(draft(Batch(following[rows], (Segment(seq, start, size),), cache), features[rows]))
        start += size
    assert cache.length(seq) == TOKENS
    assert_same(torch.cat(found), wanted)


@EVERY_KIND
@torch.no_grad()
def test_guesses_that_were_refused_leave_no_trace(target, draft_of, kind):
    """The draft runs ahead on its own features, is rewound, and goes on with true ones."""
    draft = draft_of(kind, "torch")
    features, following = seen(target, draft, ids_of(target, 31))
    wanted = draft(Batch.of_sequences(following), features)
    cache = draft.new_cache(1)
    seq = cache.open()

    def feed(rows, inputs):
        assert cache.reserve(seq, len(rows))
        return draft(Batch(following[rows], (Segment(seq, cache.length(seq), len(rows)),), cache), inputs)

    feed(range(20), features[:20])
    feed(range(5), torch.ones(5, 64))
    assert cache.rewind(seq, 20) == 20
    assert_same(feed(range(20, 30), features[20:]), wanted[20:])


@EVERY_KIND
@torch.no_grad()
def test_packed_sequences_equal_separate_ones(target, draft_of, kind):
    draft = draft_of(kind, "torch")
    texts = [seen(target, draft, ids_of(target, n, seed=n)) for n in (2, 34, 8, 8)]
    packed = draft(Batch.of_sequences(*(ids for _, ids in texts)), torch.cat([f for f, _ in texts]))
    for found, (features, ids) in zip(packed.split([len(ids) for _, ids in texts]), texts, strict=True):
        assert_same(found, draft(Batch.of_sequences(ids), features))


@EVERY_KIND
def test_every_weight_of_an_unprepared_draft_learns(target, draft_of, kind):
    draft = draft_of(kind)
    hidden = target.forward_with_features(Batch.of_sequences(ids_of(target, 9)), draft.taps)
    out = draft(Batch.of_sequences(ids_of(target, 9, seed=1)), draft.features(hidden))
    draft.logits(out).square().sum().backward()
    without = [name for name, p in draft.named_parameters() if p.grad is None or not p.grad.any()]
    # The features of an EAGLE-2 draft pass its norm; those of EAGLE-3 pass fc.
    assert without == []


def test_the_target_is_not_part_of_the_draft(target, draft_of):
    names = {name.partition(".")[0] for name in draft_of("eagle2-frspec").state_dict()}
    assert names == {"fc", "input_norm1", "input_norm2", "layers"}


@torch.no_grad()
def test_a_restricted_draft_gives_the_full_logits_of_its_tokens(target, draft_of):
    draft = draft_of("eagle2-frspec", "torch")
    features, following = seen(target, draft, ids_of(target, 12))
    y = draft(Batch.of_sequences(following), features)
    full = draft.logits(y)
    assert full.shape == (11, target.config.vocab)
    assert torch.equal(draft.token_ids(full.argmax(-1)), full.argmax(-1))
    kept = torch.tensor([5, *target.config.eos, 200, 17, 9])
    draft.restrict(Vocabulary.frequent(kept, size=target.config.vocab, ends=target.config.eos))
    some = draft.logits(y)
    assert_same(some, full[:, kept])
    assert torch.equal(draft.token_ids(some.argmax(-1)), kept[full[:, kept].argmax(-1)])


def test_offsets_become_ids():
    assert Vocabulary.from_offsets(torch.tensor([3, 3, 10]), size=13).ids.tolist() == [3, 4, 12]


BAD_VOCABULARIES = {
    "outside": ([1, 2, 99, -1], "2 ids are outside 0 to 9, such as 99"),
    "twice": ([1, 2, 2], "1 ids appear more than once, such as 2"),
    "empty": ([], "a list of token ids is needed"),
    "both": ([1, 1, 10], "outside.*more than once"),
}


@pytest.mark.parametrize(("ids", "why"), BAD_VOCABULARIES.values(), ids=BAD_VOCABULARIES)
def test_a_vocabulary_that_cannot_be_is_refused(ids, why):
    with pytest.raises(BadParameter, match=why):
        Vocabulary(torch.tensor(ids, dtype=torch.int64), size=10)


def test_a_vocabulary_without_an_end_is_refused_by_its_id():
    with pytest.raises(BadParameter, match=r"4 frequent tokens lacks \[2, 7\]"):
        Vocabulary.frequent(torch.tensor([1, 3, 4, 5]), size=10, ends=(7, 2, 1))
