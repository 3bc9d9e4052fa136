"""MiniCPM-SALA is read as published, follows its formulas, and continues from any length it gives back."""

import math
import random

import pytest
import torch
from torch.nn.functional import silu

from minicpm.cache import Batch, Segment, StateStore
from minicpm.config import GQA, DefaultRope, InfLLM, Lightning, SparseConfig, parameter_count
from minicpm.config.memory import STATE_MARKS, cache_bytes, state_bytes
from minicpm.errors import BadConfig, UnreadConfig
from minicpm.models.published import by_name
from minicpm.models.registry import family, parse
from minicpm.testing import tiny_config

REAL = dict(by_name("MiniCPM-SALA").raw)
TOY = tiny_config("minicpm-sala")
SOFTMAX_LAYERS = [0, 9, 16, 17, 22, 29, 30, 31]

# Largest difference over the largest value: the same float32 sums in another order over four layers.
# Measured at most 1.4e-6 between two ways of ours, and 1.1e-6 against float64.
FLOAT32 = 1e-5

EVERY_BACKEND = pytest.mark.parametrize("backend", ["reference", "torch"])


def refusal(raw, kind=BadConfig):
    with pytest.raises(kind) as error:
        parse(raw)
    return str(error.value)


def assert_close(found, wanted):
    assert found.shape == wanted.shape
    difference = ((found - wanted).abs().max() / wanted.abs().max()).item()
    assert difference <= FLOAT32, f"relative difference {difference:.2e}"


def test_the_published_layers_are_eight_of_softmax_among_24_of_lightning():
    config = parse(REAL)
    softmax = InfLLM(GQA(32, 2, 128, rotary=False, gated=True), SparseConfig())
    lightning = Lightning(32, 32, 128, scale=1 / math.sqrt(128))
    wanted = [softmax if i in SOFTMAX_LAYERS else lightning for i in range(32)]
    assert [layer.mixer for layer in config.layers] == wanted
    assert {layer.ffn.intermediate for layer in config.layers} == {16384}
    assert config.rope == DefaultRope(10000.0, 128)
    assert (config.embed_scale, config.logit_scale) == (12, 16)
    assert config.residual_scale == pytest.approx(1.4 / math.sqrt(32))
    assert (config.tied, config.context, config.eos, config.pad) == (False, 524288, (2, 73440), 2)
    assert parameter_count(config) == 9_477_203_968


def test_its_family_speaks_chatml_and_calls_tools_in_python():
    known = family(parse(REAL).family)
    assert (known.name, known.template, known.dialect) == ("minicpm-sala", "chatml", "py-call")


def test_a_state_of_all_layers_takes_48_mib():
    config = parse(REAL)
    assert state_bytes(config) == 24 * 32 * 128 * 128 * 4 == 48 * 2**20
    assert cache_bytes(config, 64, "bfloat16") - cache_bytes(config, 0, "bfloat16") > 48 * 2**20


@pytest.mark.parametrize("alias", ["lightning", "lightning_attn", "lightning-attn"])
def test_every_spelling_of_lightning_is_read(alias):
    spelled = [alias if word.startswith("lightning") else word for word in REAL["mixer_types"]]
    assert parse(REAL | {"mixer_types": spelled}).layers == parse(REAL).layers


def test_all_that_is_wrong_with_mixer_types_is_said_at_once():
    words = ["minicpm4", "mamba", "lightning", "mamba", "MiniCPM4"]
    message = refusal(TOY | {"mixer_types": words, "lightning_nh": 6, "lightning_head_dim": 7})
    assert "'mamba' for layer 1, which is not one of minicpm4, lightning-attn" in message
    assert "'MiniCPM4' for layer 4" in message
    assert "mixer_types names 5 layers, where num_hidden_layers is 4" in message
    assert "lightning_nh 6 is not a multiple of lightning_nkv 4" in message
    assert "lightning_head_dim 7 is odd" in message


@pytest.mark.parametrize("words", [None, "minicpm4", [1, 2, 3, 4], {"0": "minicpm4"}])
def test_mixer_types_must_be_a_list_of_words(words):
    assert "mixer_types is" in refusal(TOY | {"mixer_types": words})


def test_too_few_words_are_refused_too():
    message = refusal(TOY | {"mixer_types": ["minicpm4"]})
    assert "mixer_types names 1 layers, where num_hidden_layers is 4" in message


def test_the_geometry_of_the_softmax_layers_is_checked_as_in_other_families():
    assert "block_size is 48" in refusal(TOY | {"sparse_config": {"block_size": 48}})


def test_without_a_geometry_softmax_layers_are_dense():
    mixers = {layer.mixer for layer in parse(TOY | {"sparse_config": None}).layers}
    assert GQA(4, 2, 32, rotary=False, gated=True) in mixers


@pytest.mark.parametrize(("word", "scale"), [("1/sqrt(d)", 0.25), ("1/d", 1 / 16), ("1", 1.0), ("none", 1.0)])
def test_the_scale_is_read_as_the_published_code_reads_it(word, scale):
    assert parse(TOY | {"lightning_scale": word}).layers[1].mixer.scale == scale


def test_missing_keys_mean_a_whole_lightning_layer_as_wide_as_attention():
    kept = {
        key: value
        for key, value in TOY.items()
        if not key.startswith(("lightning", "attn_", "use_output", "qk_norm"))
    }
    config = parse(kept)
    assert config.layers[1].mixer == Lightning(4, 4, 32, scale=1 / math.sqrt(32))
    assert config.layers[0].mixer.attention == GQA(4, 2, 32, rotary=False, gated=True)


def test_a_decay_that_depends_on_the_layer_is_refused():
    assert "depends on the layer" in refusal(TOY | {"lightning_layerwise_decay": True})


def test_what_nobody_reads_is_refused_by_name():
    assert "lightning_conv" in refusal(TOY | {"lightning_conv": 4}, UnreadConfig)


def test_one_rope_serves_heads_of_one_width():
    assert parse(TOY).rope.dim == 16, "lightning layers alone are rotated"
    assert "ropes of two widths" in refusal(TOY | {"attn_use_rope": True})
    both = parse(TOY | {"attn_use_rope": True, "lightning_head_dim": 32})
    assert both.rope.dim == 32
    assert both.layers[0].mixer.attention.rotary
    neither = parse(TOY | {"lightning_use_rope": False})
    assert not neither.layers[1].mixer.rotary


VARIANTS = [
    {},
    {"lightning_nkv": 2, "lightning_scale": "1/d", "lightning_nh": 6},
    {"attn_use_rope": True, "lightning_head_dim": 32},
    {"lightning_use_rope": False, "attn_use_output_gate": False},
    {"qk_norm": False, "use_output_norm": False, "use_output_gate": False},
    {"mixer_types": ["lightning"] * 4},
    {"sparse_config": None, "tie_word_embeddings": True},
]


def rms(x, weight, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def turned(x, position, theta):
    half = x.shape[-1] // 2
    angle = position * theta ** (-torch.arange(half, dtype=torch.float64) / half)
    low, high = x[..., :half], x[..., half:]
    return torch.cat((low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()), -1)


def slopes_by_hand(heads):
    """Powers of two below the head count, then every second of twice as many, up to the head count."""
    below = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * (h + 1) / below) for h in range(below)]
    return slopes + [2 ** (-8 * (h + 1) / (2 * below)) for h in range(2 * below)][::2][: heads - below]


class ByHand:
    """The model from its raw config and named tensors, token by token and head by head in float64."""

    def __init__(self, raw, state):
        self.raw = raw
        self.state = {name: weight.double() for name, weight in state.items()}

    def logits(self, ids):
        raw, state = self.raw, self.state
        s = raw["scale_depth"] / math.sqrt(raw["num_hidden_layers"])
        h = state["model.embed_tokens.weight"][ids] * raw["scale_emb"]
        for i, word in enumerate(raw["mixer_types"]):
            w = {n.split(f"layers.{i}.")[1]: x for n, x in state.items() if f"layers.{i}." in n}
            a = rms(h, w["input_layernorm.weight"], raw["rms_norm_eps"])
            h = h + s * (self.softmax(a, w) if word == "minicpm4" else self.lightning(a, w))
            b = rms(h, w["post_attention_layernorm.weight"], raw["rms_norm_eps"])
            gate, up = b @ w["mlp.gate_proj.weight"].T, b @ w["mlp.up_proj.weight"].T
            h = h + s * ((silu(gate) * up) @ w["mlp.down_proj.weight"].T)
        h = rms(h, state["model.norm.weight"], raw["rms_norm_eps"])
        head = state.get("lm_head.weight", state["model.embed_tokens.weight"])
        return h / (raw["hidden_size"] / raw["dim_model_base"]) @ head.T

    def heads(self, a, w, name, width):
        return (a @ w[f"self_attn.{name}_proj.weight"].T).view(len(a), -1, width)

    def softmax(self, a, w):
        width = self.raw["head_dim"]
        q, k, v = (self.heads(a, w, name, width) for name in "qkv")
        if self.raw["attn_use_rope"]:
            q, k = (torch.stack([turned(r, t, 10000.0) for t, r in enumerate(x)]) for x in (q, k))
        out, group = torch.zeros_like(q), q.shape[1] // k.shape[1]
        for t in range(len(a)):
            for head in range(q.shape[1]):
                scores = k[: t + 1, head // group] @ q[t, head] / math.sqrt(width)
                out[t, head] = scores.softmax(0) @ v[: t + 1, head // group]
        out = out.flatten(1)
        if self.raw["attn_use_output_gate"]:
            out = out * (a @ w["self_attn.o_gate.weight"].T).sigmoid()
        return out @ w["self_attn.o_proj.weight"].T

    def lightning(self, a, w):
        raw, width = self.raw, self.raw["lightning_head_dim"]
        scale = {"1/d": 1 / width, "1/sqrt(d)": 1 / math.sqrt(width)}[raw["lightning_scale"]]
        q, k, v = (self.heads(a, w, name, width) for name in "qkv")
        if raw["qk_norm"]:
            q = rms(q, w["self_attn.q_norm.weight"], raw["rms_norm_eps"])
            k = rms(k, w["self_attn.k_norm.weight"], raw["rms_norm_eps"])
        heads = q.shape[1]
        group, slopes = heads // k.shape[1], slopes_by_hand(heads)
        state, out = torch.zeros(heads, width, width, dtype=torch.float64), torch.zeros_like(q)
        for t in range(len(a)):
            for head in range(heads):
                q_t, k_t = q[t, head], k[t, head // group]
                if raw["lightning_use_rope"]:
                    q_t, k_t = turned(q_t, t, 10000.0), turned(k_t, t, 10000.0)
                added = torch.outer(k_t, v[t, head // group])
                state[head] = math.exp(-slopes[head]) * state[head] + added
                out[t, head] = scale * (q_t @ state[head])
        out = out.flatten(1)
        if raw["use_output_norm"]:
            out = rms(out, w["self_attn.o_norm.weight"], raw["rms_norm_eps"])
        if raw["use_output_gate"]:
            out = out * (a @ w["self_attn.z_proj.weight"].T).sigmoid()
        return out @ w["self_attn.o_proj.weight"].T


@EVERY_BACKEND
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_logits_follow_the_published_formulas_written_out(toy, changes, backend):
    model = toy("minicpm-sala", **changes)
    ids = model.ids(70)
    with torch.no_grad():
        found = model.decoder(backend=backend).logits_for(ids)
    assert_close(found.double(), ByHand(model.raw, model.state).logits(ids))


@torch.no_grad()
def feed(decoder, cache, seq, ids):
    assert cache.reserve(seq, len(ids))
    return decoder(Batch(ids, (Segment(seq, cache.length(seq), len(ids)),), cache))


@torch.no_grad()
def whole(decoder, ids):
    return decoder(Batch.of_sequences(ids))


@EVERY_BACKEND
@pytest.mark.parametrize("kept", [0, 1, 63, 64, 65, 127, 128, 149, 150])
def test_rewinding_and_feeding_the_rest_again_equals_a_fresh_sequence(toy, backend, kept):
    model = toy("minicpm-sala")
    decoder, ids, other = model.decoder(backend=backend), model.ids(150), model.ids(20, seed=1)
    cache = decoder.new_cache(4)
    seq = cache.open()
    feed(decoder, cache, seq, ids)
    reached = cache.rewind(seq, kept)
    assert reached == (kept if kept == 150 else kept // 64 * 64)
    again = torch.cat([ids[reached:kept], other])
    assert_close(feed(decoder, cache, seq, again), whole(decoder, torch.cat([ids[:kept], other]))[reached:])


@EVERY_BACKEND
@pytest.mark.parametrize("accepted", [0, 1, 9, 28, 29, 39, 40])
def test_a_draft_is_rejected_from_any_token_on_without_feeding_one_again(toy, backend, accepted):
    """40 tokens from 100 on pass a page end."""
    model = toy("minicpm-sala")
    decoder, ids, draft, other = (
        model.decoder(backend=backend),
        *(model.ids(n, seed=n) for n in (100, 40, 30)),
    )
    cache = decoder.new_cache(4)
    seq = cache.open()
    feed(decoder, cache, seq, ids)
    feed(decoder, cache, seq, draft)
    kept = torch.cat([ids, draft[:accepted]])
    assert cache.rewind(seq, len(kept)) == len(kept)
    assert_close(feed(decoder, cache, seq, other), whole(decoder, torch.cat([kept, other]))[len(kept) :])


@EVERY_BACKEND
@pytest.mark.parametrize("shared", [1, 64, 100, 128, 150])
def test_a_fork_and_its_parent_go_on_alone(toy, backend, shared):
    model = toy("minicpm-sala")
    decoder, ids = model.decoder(backend=backend), model.ids(150)
    left, right = model.ids(70, seed=1), model.ids(40, seed=2)
    cache = decoder.new_cache(8)
    parent = cache.open()
    feed(decoder, cache, parent, ids)
    child = cache.fork(parent, shared)
    reached = cache.length(child)
    assert reached == (shared if shared == 150 else shared // 64 * 64)
    on_parent = feed(decoder, cache, parent, left)
    on_child = feed(decoder, cache, child, torch.cat([ids[reached:shared], right]))
    assert_close(on_parent, whole(decoder, torch.cat([ids, left]))[150:])
    assert_close(on_child, whole(decoder, torch.cat([ids[:shared], right]))[reached:])


def test_random_appends_forks_and_rewinds_equal_fresh_sequences(toy):
    """Whatever is given back, what is fed next gives what a fresh sequence of the same tokens gives."""
    model = toy("minicpm-sala")
    decoder, generator = model.decoder(backend="torch"), random.Random(5)
    cache, tokens = decoder.new_cache(40), {}
    for step in range(60):
        action = generator.choice(["open", "append", "append", "append", "fork", "rewind", "close"])
        seq = generator.choice(list(tokens)) if tokens else None
        n = generator.randint(0, len(tokens[seq])) if seq else 0
        if seq is None or (action == "open" and len(tokens) < 5):
            tokens[cache.open()] = torch.zeros(0, dtype=torch.int64)
        elif action == "fork" and len(tokens) < 5:
            copy = cache.fork(seq, n)
            tokens[copy] = tokens[seq][: cache.length(copy)]
        elif action == "rewind":
            tokens[seq] = tokens[seq][: cache.rewind(seq, n)]
        elif action == "close":
            cache.close(seq)
            del tokens[seq]
        else:
            ids = model.ids(generator.choice([1, 2, 30, 64, 100]), seed=step)
            before = len(tokens[seq])
            tokens[seq] = torch.cat([tokens[seq], ids])
            assert_close(feed(decoder, cache, seq, ids), whole(decoder, tokens[seq])[before:])
        assert all(cache.length(seq) == len(ids) for seq, ids in tokens.items())


def test_the_cache_takes_the_bytes_that_were_foretold_and_frees_its_states(toy):
    model = toy("minicpm-sala")
    decoder = model.decoder(backend="torch")
    for count in (1, 64, 65, 200, 64 * (STATE_MARKS + 3)):
        cache = decoder.new_cache(-(-count // 64))
        empty, seq, ids = cache.nbytes, cache.open(), model.ids(count)
        feed(decoder, cache, seq, ids[:-1])
        feed(decoder, cache, seq, ids[-1:])
        assert cache.nbytes == cache_bytes(model.config, count, "float32")
        cache.close(seq)
        assert cache.nbytes == empty


def test_only_lightning_layers_keep_states(toy):
    stores = toy("minicpm-sala").decoder().new_cache(1).stores
    assert [isinstance(store, StateStore) for store in stores] == [False, True, True, False]
