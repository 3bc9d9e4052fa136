"""Latent attention follows the published formula, calls its projections as modules, caches only latents."""

import math

import pytest
import torch
from torch import nn

from minicpm.cache import Batch, Cache, LatentStore, Segment
from minicpm.config import MLA, DefaultRope
from minicpm.layers.latent_attention import LatentAttention
from minicpm.layers.lora import Adapters, LowRank, make_adaptable
from minicpm.layers.quant_linear import QuantLinear
from minicpm.layers.step import Step
from minicpm.ops.backend import REFERENCE, TORCH
from minicpm.ops.quant_tensor import QuantTensor, Scheme, pack_codes
from minicpm.ops.rope import rope_angles

HIDDEN = 24
MIXERS = [MLA(1, 5, 8, 4, 2, 6), MLA(4, 12, 20, 12, 16, 16), MLA(3, 7, 16, 8, 4, 5), MLA(2, 8, 4, 6, 2, 8)]
LENGTHS = [[1], [63], [65], [1, 65, 3], [20, 20, 20, 5, 20]]

# The same float32 sums in another order; measured at most 6e-7.
FLOAT32 = 1e-5

EVERY_MIXER = pytest.mark.parametrize("mixer", MIXERS, ids=str)
EVERY_BACKEND = pytest.mark.parametrize("ops", [REFERENCE, TORCH], ids=["reference", "torch"])


def layer_of(mixer, seed=0):
    torch.manual_seed(seed)
    layer = LatentAttention(HIDDEN, mixer, layer=0)
    with torch.no_grad():
        layer.q_a_layernorm.weight.normal_(1, 0.1)
        layer.kv_a_layernorm.weight.normal_(1, 0.1)
    return layer


def step_for(mixer, batch, ops):
    angles = rope_angles(DefaultRope(1e4, mixer.rope), batch.positions)
    plan = batch.cache.plan(batch.segments) if batch.cache is not None else None
    return Step(ops, angles, batch.segments, batch.cache, plan)


def fresh(mixer, lengths, ops=TORCH):
    return step_for(mixer, Batch.of_sequences(*(torch.zeros(n, dtype=torch.int64) for n in lengths)), ops)


def stream(tokens, seed=1):
    return torch.randn(tokens, HIDDEN, generator=torch.Generator().manual_seed(seed))


def cache_for(layer, pages=4):
    store = layer.new_store(pages, torch.float32, torch.device("cpu"))
    store.latents.fill_(torch.nan)
    return Cache([store], pages, device=torch.device("cpu"))


def feed(layer, cache, *parts, ops=TORCH):
    """Append the rows of each (seq, x) part in one forward; the layer's output of all."""
    for seq, x in parts:
        assert cache.reserve(seq, len(x))
    segments = tuple(Segment(seq, cache.length(seq), len(x)) for seq, x in parts)
    x = torch.cat([x for _, x in parts])
    batch = Batch(torch.zeros(len(x), dtype=torch.int64), segments, cache)
    with torch.no_grad():
        out = layer(x, step_for(layer.mixer, batch, ops))
    cache.commit(segments)
    return out


def assert_same(found, wanted, bound=FLOAT32):
    # Relative to 1 where a lone position's gradient on its query is exactly 0 and comes out as rounding.
    difference = (found - wanted).abs().max() / wanted.abs().max().clamp_min(1)
    assert difference <= bound, f"differs by {difference:.2e}"


@EVERY_MIXER
@EVERY_BACKEND
def test_it_follows_the_published_formula(mixer, ops):
    """Written out for one sequence of 7 tokens, head by head, in float64."""
    layer, a = layer_of(mixer).double(), stream(7).double()

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    def turned(x):  # [7, rope], pairs (i, i + rope / 2)
        half = mixer.rope // 2
        angle = torch.arange(7)[:, None] * 1e4 ** (-torch.arange(half, dtype=torch.float64) / half)
        low, high = x[:, :half], x[:, half:]
        return torch.cat((low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()), -1)

    q = norm(a @ layer.q_a_proj.weight.T, layer.q_a_layernorm.weight) @ layer.q_b_proj.weight.T
    q = q.view(7, mixer.heads, mixer.nope + mixer.rope)
    compressed = a @ layer.kv_a_proj_with_mqa.weight.T
    c = norm(compressed[:, : mixer.kv_rank], layer.kv_a_layernorm.weight)
    shared = turned(compressed[:, mixer.kv_rank :])
    kv = (c @ layer.kv_b_proj.weight.T).view(7, mixer.heads, mixer.nope + mixer.value)
    heads = []
    for head in range(mixer.heads):
        nope, rope = q[:, head, : mixer.nope], turned(q[:, head, mixer.nope :])
        scores = (nope @ kv[:, head, : mixer.nope].T + rope @ shared.T) / math.sqrt(mixer.nope + mixer.rope)
        future = torch.ones(7, 7, dtype=torch.bool).triu(1)
        heads.append(scores.masked_fill(future, -math.inf).softmax(-1) @ kv[:, head, mixer.nope :])
    wanted = torch.cat(heads, -1) @ layer.o_proj.weight.T
    # Norm, rotation and softmax of the layer run in float32.
    assert torch.allclose(layer(a, fresh(mixer, [7], ops)), wanted, atol=1e-5)


@EVERY_MIXER
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_the_torch_backend_equals_the_reference_with_all_gradients(mixer, lengths):
    def run(ops):
        layer, x = layer_of(mixer), stream(sum(lengths)).requires_grad_()
        out = layer(x, fresh(mixer, lengths, ops))
        out.square().sum().backward()
        return {"output": out.detach(), "input": x.grad} | {n: p.grad for n, p in layer.named_parameters()}

    found, wanted = run(TORCH), run(REFERENCE)
    for name, value in wanted.items():
        assert_same(found[name], value)


@EVERY_MIXER
@EVERY_BACKEND
@pytest.mark.parametrize("prepared", [False, True], ids=["unprepared", "prepared"])
@pytest.mark.parametrize(
    "chunks", [[130], [1] * 70, [64, 65, 1], [3, 1, 90, 1, 1, 30]], ids=["whole", "ones", "pages", "mixed"]
)
def test_chunks_through_the_cache_equal_the_whole(mixer, ops, prepared, chunks):
    layer, x = layer_of(mixer), stream(sum(chunks))
    with torch.no_grad():
        wanted = layer(x, fresh(mixer, [len(x)], REFERENCE))
    if prepared:
        layer.prepare()
    cache = cache_for(layer)
    seq = cache.open()
    assert_same(torch.cat([feed(layer, cache, (seq, part), ops=ops) for part in x.split(chunks)]), wanted)


@EVERY_BACKEND
def test_sequences_of_all_kinds_in_one_forward_do_not_see_each_other(ops):
    layer, sequences = layer_of(MIXERS[1]), [stream(n, seed=n) for n in (70, 30, 66)]
    with torch.no_grad():
        wanted = [layer(x, fresh(layer.mixer, [len(x)], REFERENCE)) for x in sequences]
    layer.prepare()
    cache = cache_for(layer, pages=6)
    handles = [cache.open() for _ in sequences]
    feed(layer, cache, (handles[0], sequences[0][:69]), (handles[1], sequences[1][:3]), ops=ops)
    # One token, a chunk with a past and a fresh sequence.
    parts = [sequences[0][69:], sequences[1][3:], sequences[2]]
    out = feed(layer, cache, *zip(handles, parts, strict=True), ops=ops).split([len(x) for x in parts])
    for found, whole in zip(out, wanted, strict=True):
        assert_same(found, whole[-len(found) :])


def test_a_token_takes_one_latent_and_one_shared_key():
    mixer = MIXERS[1]
    store = layer_of(mixer).new_store(3, torch.bfloat16, torch.device("cpu"))
    assert isinstance(store, LatentStore)
    assert store.nbytes == 3 * mixer.page_values * 2 == 3 * 64 * (20 + 16) * 2


@pytest.mark.parametrize("cached", [False, True])
def test_unprepared_every_projection_is_called(cached):
    """What hooks into a projection (LoRA, tracing) must see every call."""
    layer, called = layer_of(MIXERS[1]), []
    for name, module in layer.named_children():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    if cached:
        cache = cache_for(layer)
        feed(layer, cache, (cache.open(), stream(3)))
    else:
        layer(stream(3), fresh(layer.mixer, [3]))
    assert called == ["q_a_proj", "kv_a_proj_with_mqa", "q_b_proj", "kv_b_proj", "o_proj"]


class Updated(nn.Module):
    """A projection with a low-rank update beside it."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Parameter(torch.randn(rank, base.in_features) / 4)
        self.b = nn.Parameter(torch.randn(base.out_features, rank) / 4)

    def forward(self, x):
        return self.base(x) + x @ self.a.T @ self.b.T


PROJECTIONS = ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]


@pytest.mark.parametrize("name", PROJECTIONS)
def test_a_low_rank_update_of_any_projection_learns_and_counts_like_its_merged_weight(name):
    layer, merged = layer_of(MIXERS[1]), layer_of(MIXERS[1])
    update = Updated(getattr(layer, name))
    setattr(layer, name, update)
    with torch.no_grad():
        getattr(merged, name).weight += update.b @ update.a
    x, step = stream(9), fresh(layer.mixer, [9])
    out = layer(x, step)
    assert_same(out.detach(), merged(x, step).detach())
    out.square().sum().backward()
    assert update.a.grad.any()
    assert update.b.grad.any()
    cache = cache_for(layer)
    seq = cache.open()
    cached = torch.cat([feed(layer, cache, (seq, part)) for part in x.split([4, 1, 4])])
    assert_same(cached, out.detach())


@pytest.mark.parametrize("prepared", [False, True], ids=["unprepared", "prepared"])
def test_every_cached_sequence_reads_keys_and_values_of_its_own_adapter(prepared):
    mixer, adapters, names = MIXERS[1], Adapters({"one", "two"}), ["one", None, "two"]
    layer, sequences = layer_of(mixer), [stream(n, seed=n) for n in (30, 20, 25)]
    up = {name: LowRank(torch.randn(2, 20), torch.randn(4 * 28, 2), 0.5) for name in adapters.names}
    make_adaptable(layer, "kv_b_proj", adapters).updates |= up
    if prepared:
        layer.prepare()
    cache = cache_for(layer)
    handles, outs = [cache.open() for _ in sequences], [[], [], []]
    for first, last in [(0, 3), (3, 19), (19, 20)]:
        for seq in handles:
            assert cache.reserve(seq, last - first)
        segments = tuple(
            Segment(s, first, last - first, adapter=n) for s, n in zip(handles, names, strict=True)
        )
        x = torch.cat([sequence[first:last] for sequence in sequences])
        batch = Batch(torch.zeros(len(x), dtype=torch.int64), segments, cache)
        with torch.no_grad(), adapters.routed(segments, x.device):
            parts = layer(x, step_for(mixer, batch, TORCH)).split(last - first)
        cache.commit(segments)
        for out, part in zip(outs, parts, strict=True):
            out.append(part)
    for out, name, x in zip(outs, names, sequences, strict=True):
        merged = layer_of(mixer)
        if name is not None:
            merged.kv_b_proj.weight = nn.Parameter(up[name].merged(merged.kv_b_proj.weight))
        assert_same(torch.cat(out), merged(x[:20], fresh(mixer, [20])).detach())


def test_peft_reaches_every_projection():
    peft = pytest.importorskip("peft", reason="the oracle; pip install minicpm[train]")
    layer, x = layer_of(MIXERS[1]), stream(9)
    step = fresh(layer.mixer, [9])
    with torch.no_grad():
        before = layer(x, step)
    config = peft.LoraConfig(r=2, target_modules=PROJECTIONS, init_lora_weights=False)
    adapted = peft.inject_adapter_in_model(config, layer)
    out = adapted(x, step)
    assert not torch.allclose(out, before)
    out.square().sum().backward()
    without = [name for name, p in adapted.named_parameters() if "lora_" in name and not p.grad.any()]
    assert without == []
    assert sum("lora_" in name for name, _ in adapted.named_parameters()) == 2 * len(PROJECTIONS)


@EVERY_MIXER
def test_preparing_changes_the_output_by_rounding_at_most(mixer):
    layer, x = layer_of(mixer), stream(33)
    before = layer(x, fresh(mixer, [33]))
    layer.prepare()
    assert_same(layer(x, fresh(mixer, [33])).detach(), before.detach())


def test_preparing_holds_nothing_twice_and_keeps_every_name_and_value():
    layer = layer_of(MIXERS[1])
    before = {name: weight.clone() for name, weight in layer.state_dict().items()}
    total = sum(weight.untyped_storage().nbytes() for weight in before.values())
    layer.prepare()
    after = layer.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    storages = {w.untyped_storage().data_ptr(): w.untyped_storage().nbytes() for w in after.values()}
    assert sum(storages.values()) == total
    assert layer._fused.untyped_storage().data_ptr() in storages


def test_loading_into_a_prepared_layer_reaches_what_decoding_reads():
    layer, other, x = layer_of(MIXERS[1]), layer_of(MIXERS[1], seed=5), stream(9)
    layer.prepare()
    layer.load_state_dict(other.state_dict())
    cache = cache_for(layer)
    seq = cache.open()
    out = torch.cat([feed(layer, cache, (seq, part)) for part in x.split(1)])
    assert_same(out, other(x, fresh(other.mixer, [9])).detach())


def packed(plain):
    """The same projection with codes of 8 bits, and the weight they stand for."""
    scheme = Scheme(bits=8, group=4)
    groups = plain.weight.detach().unflatten(1, (-1, scheme.group))
    scales = groups.abs().amax(-1) / 127
    codes = (groups / scales[..., None]).round().add(128).flatten(1)
    return QuantLinear(QuantTensor(pack_codes(codes, 8), scales, None, scheme))


@pytest.mark.parametrize("prepared", [False, True], ids=["unprepared", "prepared"])
def test_packed_projections_read_like_the_matrices_they_stand_for(prepared):
    mixer = MIXERS[1]
    layer, plain, x = layer_of(mixer), layer_of(mixer), stream(70)
    for name in PROJECTIONS:
        setattr(layer, name, packed(getattr(layer, name)))
    plain.load_state_dict(layer.state_dict())
    assert_same(layer(x, fresh(mixer, [70])), plain(x, fresh(mixer, [70])).detach())
    if prepared:
        layer.prepare()
    cache = cache_for(layer)
    seq = cache.open()
    cached = torch.cat([feed(layer, cache, (seq, part)) for part in x.split([40, 1, 1, 28])])
    assert_same(cached, plain(x, fresh(mixer, [70])).detach())


def test_a_narrower_cache_only_rounds_latents():
    layer, x = layer_of(MIXERS[1]), stream(40)
    layer.prepare()
    with torch.no_grad():
        wanted = layer(x, fresh(layer.mixer, [40]))
    store = layer.new_store(1, torch.bfloat16, torch.device("cpu"))
    cache = Cache([store], 1, device=torch.device("cpu"))
    seq = cache.open()
    out = torch.cat([feed(layer, cache, (seq, part)) for part in x.split([30, 1, 9])])
    assert out.dtype == torch.float32
    assert_same(out, wanted, bound=2**-8)  # latents are rounded to 8 bits


def test_padding_rows_give_zero():
    layer, x = layer_of(MIXERS[1]), stream(8)
    out = layer(x, fresh(layer.mixer, [5]))
    assert_same(out[:5].detach(), layer(x[:5], fresh(layer.mixer, [5])).detach())
    assert not out[5:].any()
