"""The lightning layer follows the published formulas written out with plain loops, in every arrangement."""

import math
from dataclasses import replace

import pytest
import torch

from minicpm.cache import Batch, Cache, Segment
from minicpm.config import DefaultRope, Lightning
from minicpm.layers.lightning import LightningAttention
from minicpm.layers.step import Step
from minicpm.ops.backend import REFERENCE, TORCH
from minicpm.ops.rope import rope_angles

HIDDEN, EPS, THETA = 24, 1e-6, 1e4
FULL = Lightning(heads=4, kv_heads=4, head_dim=8, scale=8**-0.5)
MIXERS = [
    FULL,
    Lightning(heads=6, kv_heads=2, head_dim=4, scale=0.25),
    # A lone head's norm undoes its scale, so that gradients on q and k would be rounding alone.
    Lightning(heads=1, kv_heads=1, head_dim=6, scale=1.0, output_norm=False),
    replace(FULL, qk_norm=False),
    replace(FULL, output_norm=False),
    replace(FULL, gated=False),
    replace(FULL, rotary=False),
    replace(FULL, qk_norm=False, output_norm=False, gated=False, rotary=False, kv_heads=1),
]
EVERY_MIXER = pytest.mark.parametrize("mixer", MIXERS, ids=str)
LENGTHS = [[1], [2], [63], [64], [65], [127], [200], [1, 65, 3], [20, 20, 5, 20]]

# The same float32 sums in another order, over the largest value; measured at most 1.3e-6, on gradients.
FLOAT32 = 1e-5


def layer_of(mixer, seed=0):
    torch.manual_seed(seed)
    layer = LightningAttention(HIDDEN, mixer, layer=0, norm_eps=EPS)
    with torch.no_grad():
        for name, weight in layer.named_parameters():
            if name.endswith("norm.weight"):
                weight.normal_(1, 0.1)
    return layer


def step_of(mixer, segments, ops, cache=None):
    batch = Batch(torch.zeros(sum(s.count for s in segments), dtype=torch.int64), tuple(segments))
    angles = rope_angles(DefaultRope(THETA, mixer.head_dim), batch.positions)
    plan = cache.plan(segments) if cache is not None else None
    return Step(ops, angles, batch.segments, cache, plan)


def fresh(lengths):
    return [Segment(None, 0, n) for n in lengths]


def stream(count, seed=3):
    return torch.randn(count, HIDDEN, generator=torch.Generator().manual_seed(seed))


def assert_close(found, wanted, name="output"):
    assert found.shape == wanted.shape
    difference = ((found - wanted).abs().max() / wanted.abs().max().clamp_min(1)).item()
    assert difference <= FLOAT32, f"{name} differs by {difference:.2e}"


def rms(vector, weight):
    return [
        w * x / math.sqrt(sum(y * y for y in vector) / len(vector) + EPS)
        for x, w in zip(vector, weight, strict=True)
    ]


def turned(vector, position):
    half = len(vector) // 2
    out = [0.0] * len(vector)
    for i in range(half):
        angle = position * THETA ** (-2 * i / len(vector))
        low, high = vector[i], vector[i + half]
        out[i] = low * math.cos(angle) - high * math.sin(angle)
        out[i + half] = high * math.cos(angle) + low * math.sin(angle)
    return out


def slope(head, heads):
    """ALiBi's, for the head counts used here."""
    below = 2 ** int(math.log2(heads))
    if head < below:
        return 2 ** (-8 * (head + 1) / below)
    return 2 ** (-8 * (2 * (head - below) + 1) / (2 * below))


def by_hand(layer, x, mixer):
    """One fresh sequence in Python floats: a state per head, one token after the other."""
    weights = {name: weight.detach().double().tolist() for name, weight in layer.named_parameters()}
    d, group = mixer.head_dim, mixer.heads // mixer.kv_heads

    def project(name, vector):
        return [sum(w * y for w, y in zip(row, vector, strict=True)) for row in weights[f"{name}.weight"]]

    def head_of(vector, head, norm, position):
        vector = vector[head * d : (head + 1) * d]
        vector = rms(vector, weights[f"{norm}.weight"]) if mixer.qk_norm else vector
        return turned(vector, position) if mixer.rotary else vector

    states = [[[0.0] * d for _ in range(d)] for _ in range(mixer.heads)]
    rows = []
    for t, a in enumerate(x.double().tolist()):
        q, k, v = (project(name, a) for name in ("q_proj", "k_proj", "v_proj"))
        mixed = []
        for head in range(mixer.heads):
            q_h = head_of(q, head, "q_norm", t)
            k_h = head_of(k, head // group, "k_norm", t)
            v_h = v[head // group * d : (head // group + 1) * d]
            kept, state = math.exp(-slope(head, mixer.heads)), states[head]
            for i in range(d):
                for j in range(d):
                    state[i][j] = kept * state[i][j] + k_h[i] * v_h[j]
            mixed += [mixer.scale * sum(q_h[i] * state[i][j] for i in range(d)) for j in range(d)]
        if mixer.output_norm:
            mixed = rms(mixed, weights["o_norm.weight"])
        if mixer.gated:
            mixed = [y / (1 + math.exp(-z)) for y, z in zip(mixed, project("z_proj", a), strict=True)]
        rows.append(project("o_proj", mixed))
    return torch.tensor(rows, dtype=torch.float64)


@EVERY_MIXER
@pytest.mark.parametrize("ops", [REFERENCE, TORCH], ids=lambda ops: ops.name)
@pytest.mark.parametrize("count", [1, 12, 70])
def test_the_layer_follows_the_published_formulas_written_out(mixer, ops, count):
    layer, x = layer_of(mixer), stream(count)
    found = layer(x, step_of(mixer, fresh([count]), ops)).detach()
    assert_close(found.double(), by_hand(layer, x, mixer))


def run_with_gradients(mixer, lengths, ops):
    layer, x = layer_of(mixer), stream(sum(lengths)).requires_grad_()
    out = layer(x, step_of(mixer, fresh(lengths), ops))
    out.square().sum().backward()
    return {"output": out.detach(), "input": x.grad} | {n: p.grad for n, p in layer.named_parameters()}


@EVERY_MIXER
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_chunks_equal_the_recurrence_with_all_gradients(mixer, lengths):
    found, wanted = (run_with_gradients(mixer, lengths, ops) for ops in (TORCH, REFERENCE))
    for name, value in wanted.items():
        assert_close(found[name], value, name)


@EVERY_MIXER
def test_only_what_the_config_has_has_weights(mixer):
    names = {name for name, _ in layer_of(mixer).named_parameters()}
    wanted = {f"{p}.weight" for p in ("q_proj", "k_proj", "v_proj", "o_proj")}
    wanted |= {"q_norm.weight", "k_norm.weight"} if mixer.qk_norm else set()
    wanted |= {"o_norm.weight"} if mixer.output_norm else set()
    wanted |= {"z_proj.weight"} if mixer.gated else set()
    assert names == wanted
    assert sum(w.numel() for w in layer_of(mixer).parameters()) == mixer.weights(HIDDEN)


@EVERY_MIXER
@torch.no_grad()
def test_packed_segments_are_separate_sequences(mixer):
    layer, lengths = layer_of(mixer), [3, 1, 64, 65, 65]
    x = stream(sum(lengths))
    packed = layer(x, step_of(mixer, fresh(lengths), TORCH)).split(lengths)
    for found, part in zip(packed, x.split(lengths), strict=True):
        assert_close(found, layer(part, step_of(mixer, fresh([len(part)]), TORCH)))


@EVERY_MIXER
@torch.no_grad()
@pytest.mark.parametrize("chunks", [[200], [1] * 70 + [130], [63, 1, 64, 72], [65, 127, 8]], ids=len)
def test_chunks_through_the_store_equal_the_whole(mixer, chunks):
    layer, x = layer_of(mixer), stream(200)
    wanted = layer(x, step_of(mixer, fresh([200]), TORCH))
    cache = Cache([layer.new_store(4, torch.bfloat16, x.device)], 4, device=x.device)
    seq, outputs = cache.open(), []
    for part in x.split(chunks):
        assert cache.reserve(seq, len(part))
        segments = [Segment(seq, cache.length(seq), len(part))]
        outputs.append(layer(part, step_of(mixer, segments, TORCH, cache)))
        cache.commit(segments)
    assert_close(torch.cat(outputs), wanted)
    assert cache.stores[0].marks(seq) == [64, 128, 192]


@torch.no_grad()
def test_prepared_equals_unprepared_and_padding_rows_give_zero():
    layer, x = layer_of(FULL), stream(10)
    wanted = layer(x, step_of(FULL, fresh([10]), TORCH))
    layer.prepare()
    padded = torch.cat((x, torch.zeros(2, HIDDEN)))
    found = layer(padded, step_of(FULL, fresh([10]), TORCH))
    assert_close(found[:10], wanted)
    assert not found[10:].any()


@torch.no_grad()
def test_a_state_that_has_seen_other_tokens_is_noticed():
    layer, x = layer_of(FULL), stream(5)
    store = layer.new_store(1, torch.float32, x.device)
    cache = Cache([store], 1, device=x.device)
    seq = cache.open()
    store.advance(seq, 3, torch.zeros(4, 8, 8))
    assert cache.reserve(seq, 5)
    with pytest.raises(AssertionError, match="starts at 0, its state has seen 3 tokens"):
        layer(x, step_of(FULL, [Segment(seq, 0, 5)], TORCH, cache))
