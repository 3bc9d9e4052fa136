"""Embedding and reranking models: full attention, pooling, heads, against plain formulas and transformers."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from minicpm.cache import Batch, Segment
from minicpm.config import (
    Embedding,
    FirstToken,
    LastToken,
    Relevance,
    WeightedMean,
    extend,
    parameter_count,
    reach,
)
from minicpm.config.memory import cache_bytes
from minicpm.errors import BadConfig, UnreadConfig
from minicpm.models.build import build
from minicpm.models.decoder import Decoder
from minicpm.models.pooled import EmbeddingModel, RerankingModel
from minicpm.models.pooling import pool, weighted_mean
from minicpm.models.published import by_name
from minicpm.models.registry import parse
from minicpm.testing import tiny_checkpoint

# Largest difference over largest value. Float32 sums of at most 130 terms in another order over three layers.
FLOAT32 = 1e-5
# In units of bfloat16's rounding step 2^-8: a few roundings of a residual stream, divided by its length.
BFLOAT16 = 4 * 2**-8

EMBEDDING, RERANKER = "minicpm-embedding", "minicpm-reranker"
EITHER_MODEL = pytest.mark.parametrize("family", [EMBEDDING, RERANKER])
EITHER_BACKEND = pytest.mark.parametrize("backend", ["reference", "torch"])
LENGTHS = [5, 70, 1, 33, 33, 2, 64]


def assert_same(found, wanted, bound=FLOAT32):
    assert found.shape == wanted.shape
    difference = ((found - wanted).abs().max() / wanted.abs().max()).item()
    assert difference <= bound, f"relative difference {difference:.2e} over {bound:.2e}"


class Toy:
    """A toy checkpoint, read without the checkpoint room."""

    def __init__(self, folder):
        self.raw = json.loads((folder / "config.json").read_text())
        self.state = {}
        for shard in sorted(folder.glob("*.safetensors")):
            self.state |= load_file(shard)

    def model(self, *, backend=None, dtype=torch.float32, **changes):
        model = build(parse(self.raw | changes)).to(dtype)
        model.load_state_dict({name: weight.to(dtype) for name, weight in self.state.items()}, strict=True)
        if backend is not None:
            model.prepare(backend)
        return model

    def ids(self, count, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(self.raw["vocab_size"], (count,), generator=generator)

    def sequences(self, lengths=LENGTHS):
        return [self.ids(n, seed=i) for i, n in enumerate(lengths)]


@pytest.fixture(scope="module")
def pooled_toy(tmp_path_factory):
    made = {}

    def make(family, **changes):
        key = json.dumps([family, changes])
        if key not in made:
            made[key] = Toy(tiny_checkpoint(family, tmp_path_factory.mktemp("toy"), **changes))
        return made[key]

    return make


@torch.no_grad()
def results(model, *sequences):
    """Vectors or scores of whole sequences."""
    run = model.embeddings if isinstance(model, EmbeddingModel) else model.scores
    return run(Batch.of_sequences(*sequences))


@torch.no_grad()
def hidden(model, *sequences):
    return model(Batch.of_sequences(*sequences))


# --- An independent model: plain formulas in float64, one sequence, one head, one position at a time.


def norm(x, weight, eps):
    return np.array([row / math.sqrt((row**2).mean() + eps) for row in x]) * weight


def rotated(x, theta):
    """Half-rotation of one head's rows [n, d] by their positions 0 .. n-1."""
    half = x.shape[1] // 2
    out = np.empty_like(x)
    for t in range(len(x)):
        for i in range(half):
            angle = t * theta ** (-2 * i / x.shape[1])
            low, high = x[t, i], x[t, i + half]
            out[t, i] = low * math.cos(angle) - high * math.sin(angle)
            out[t, i + half] = high * math.cos(angle) + low * math.sin(angle)
    return out


def attention(x, w, raw):
    heads, groups = raw["num_attention_heads"], raw["num_key_value_heads"]
    width = raw["hidden_size"] // heads
    mixed = np.empty((len(x), heads * width))
    for h in range(heads):
        own = slice(h * width, (h + 1) * width)
        shared = slice(h // (heads // groups) * width, (h // (heads // groups) + 1) * width)
        q = rotated(x @ w["q_proj"][own].T, raw.get("rope_theta", 10000.0))
        k = rotated(x @ w["k_proj"][shared].T, raw.get("rope_theta", 10000.0))
        v = x @ w["v_proj"][shared].T
        for t in range(len(x)):
            scores = np.array([q[t] @ key for key in k]) / math.sqrt(width)  # every key, later ones too
            weights = np.exp(scores - scores.max())
            mixed[t, own] = (weights[:, None] * v).sum(0) / weights.sum()
    return mixed @ w["o_proj"].T


def slow_hidden(raw, state, ids):
    weights = {name.removeprefix("model."): value.double().numpy() for name, value in state.items()}
    layers, eps = raw["num_hidden_layers"], raw["rms_norm_eps"]
    scale = raw["scale_depth"] / math.sqrt(layers)
    h = weights["embed_tokens.weight"][ids.numpy()] * raw["scale_emb"]
    for i in range(layers):
        at = f"layers.{i}."
        own = {n: weights[f"{at}self_attn.{n}.weight"] for n in ("q_proj", "k_proj", "v_proj", "o_proj")}
        h = h + scale * attention(norm(h, weights[at + "input_layernorm.weight"], eps), own, raw)
        b = norm(h, weights[at + "post_attention_layernorm.weight"], eps)
        gate, up, down = (weights[f"{at}mlp.{n}_proj.weight"] for n in ("gate", "up", "down"))
        inner = b @ gate.T
        h = h + scale * ((inner / (1 + np.exp(-inner)) * (b @ up.T)) @ down.T)
    return norm(h, weights["norm.weight"], eps)


@EITHER_MODEL
@EITHER_BACKEND
@pytest.mark.parametrize("tokens", [1, 2, 23])
def test_hidden_states_equal_a_slow_model_of_plain_formulas(pooled_toy, family, backend, tokens):
    toy = pooled_toy(family)
    ids = toy.ids(tokens)
    wanted = torch.from_numpy(slow_hidden(toy.raw, toy.state, ids)).float()
    assert_same(hidden(toy.model(backend=backend), ids), wanted)


@EITHER_BACKEND
@pytest.mark.parametrize("tokens", [1, 2, 23])
def test_a_vector_is_the_normalised_mean_weighted_by_position(pooled_toy, backend, tokens):
    toy = pooled_toy(EMBEDDING)
    ids = toy.ids(tokens)
    states = slow_hidden(toy.raw, toy.state, ids)
    mean = sum((j + 1) * state for j, state in enumerate(states)) / (tokens * (tokens + 1) / 2)
    wanted = torch.from_numpy(mean / math.sqrt((mean**2).sum())).float()
    found = results(toy.model(backend=backend), ids)
    assert found.dtype == torch.float32
    assert_same(found[0], wanted)


@EITHER_BACKEND
@pytest.mark.parametrize(("named", "position"), [(None, 0), ("first", 0), ("last", -1)])
def test_a_score_is_the_heads_product_with_the_state_the_config_names(pooled_toy, backend, named, position):
    toy = pooled_toy(RERANKER)
    ids = toy.ids(23)
    state = slow_hidden(toy.raw, toy.state, ids)[position]
    wanted = float(state @ toy.state["score.weight"][0].double().numpy())
    changes = {} if named is None else {"pooled_token": named}
    found = results(toy.model(backend=backend, **changes), ids)
    assert found.shape == (1,)
    assert abs(found.item() - wanted) <= FLOAT32 * max(abs(wanted), 1)


# --- Another independent model: transformers' Llama with muP folded into its weights and an open mask.


@pytest.fixture(scope="module")
def llama():
    transformers = pytest.importorskip("transformers", reason="the oracle; pip install minicpm[dev]")

    def make(toy):
        raw = toy.raw
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        names += ("num_key_value_heads", "rms_norm_eps", "max_position_embeddings")
        tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
        config = transformers.LlamaConfig(
            **{name: raw[name] for name in names}, **tokens, attn_implementation="eager"
        )
        residual = raw["scale_depth"] / math.sqrt(raw["num_hidden_layers"])
        state = {}
        for name, weight in toy.state.items():
            branch = name.endswith(("o_proj.weight", "down_proj.weight"))
            scale = raw["scale_emb"] if "embed_tokens" in name else residual if branch else 1.0
            if name.startswith("model."):
                state[name.removeprefix("model.")] = (weight.double() * scale).float()
        model = transformers.LlamaModel(config)
        model.load_state_dict(state, strict=True)
        return model.eval()

    return make


@EITHER_MODEL
@pytest.mark.parametrize("tokens", [1, 17, 130])
def test_hidden_states_equal_transformers_llama_with_an_open_mask(pooled_toy, llama, family, tokens):
    toy = pooled_toy(family)
    ids = toy.ids(tokens)
    with torch.no_grad():
        mask = torch.zeros(1, 1, tokens, tokens)
        wanted = llama(toy)(input_ids=ids[None], attention_mask=mask).last_hidden_state[0]
    assert_same(hidden(toy.model(), ids), wanted)


def test_the_open_mask_of_the_oracle_matters(pooled_toy, llama):
    toy = pooled_toy(EMBEDDING)
    ids = toy.ids(17)
    with torch.no_grad():
        causal = llama(toy)(input_ids=ids[None]).last_hidden_state[0]
    assert (hidden(toy.model(), ids) - causal).abs().max() > 1000 * FLOAT32


# --- Pooling.


@pytest.mark.parametrize("tokens", [1, 2, 63, 512])
def test_the_weighted_mean_is_numpys(tokens):
    states = np.random.default_rng(tokens).normal(size=(tokens, 48))
    wanted = np.average(states, axis=0, weights=np.arange(1, tokens + 1))
    assert_same(weighted_mean(torch.from_numpy(states).float()), torch.from_numpy(wanted).float())


def test_the_weighted_mean_is_that_of_states_scaled_beforehand():
    """The published code multiplies states by n j / sum(j) and lets the caller take the plain mean."""
    states = torch.randn(9, 16, generator=torch.Generator().manual_seed(0))
    j = torch.arange(1.0, 10.0)[:, None]
    assert_same(weighted_mean(states), (states * j * 9 / j.sum()).mean(0))


@pytest.mark.parametrize(("pooling", "row"), [(FirstToken(), [0, 3, 4]), (LastToken(), [2, 3, 8])])
def test_first_and_last_are_those_of_each_segment(pooling, row):
    states = torch.arange(18.0).view(9, 2).bfloat16()
    segments = tuple(Segment(None, 0, count) for count in (3, 1, 5))
    found = torch.stack(pool(pooling, states, segments))
    assert torch.equal(found, states[row].float())


def test_a_segment_of_one_token_is_its_own_mean():
    state = torch.randn(1, 8)
    assert torch.equal(pool(WeightedMean(), state, (Segment(None, 0, 1),))[0], state[0])


# --- Equalities between two ways.


@EITHER_MODEL
@EITHER_BACKEND
def test_packed_texts_equal_separate_ones(pooled_toy, family, backend):
    toy = pooled_toy(family)
    model, sequences = toy.model(backend=backend), toy.sequences()
    packed = results(model, *sequences)
    separate = torch.cat([results(model, ids) for ids in sequences])
    assert_same(packed, separate)


@EITHER_MODEL
@pytest.mark.parametrize("company", [1, 2, 3, 5, 9])
def test_float32_gives_a_text_the_same_bits_alone_and_in_any_batch(pooled_toy, family, company):
    toy = pooled_toy(family)
    model = toy.model(backend="torch")
    sequences = toy.sequences([1 + (37 * i * company) % 90 for i in range(company + 1)])
    together = results(model, *sequences)
    for ids, found in zip(sequences, together, strict=True):
        alone = results(model, ids)[0]
        assert torch.equal(found, alone), f"{len(ids)} tokens differ by {(found - alone).abs().max():.2e}"


@EITHER_MODEL
def test_the_order_of_a_batch_changes_no_bit(pooled_toy, family):
    toy = pooled_toy(family)
    model, sequences = toy.model(backend="torch"), toy.sequences()
    assert torch.equal(results(model, *sequences[::-1]), results(model, *sequences).flip(0))


@EITHER_MODEL
@EITHER_BACKEND
def test_prepared_equals_unprepared(pooled_toy, family, backend):
    toy = pooled_toy(family)
    sequences = toy.sequences()
    assert_same(results(toy.model(backend=backend), *sequences), results(toy.model(), *sequences))


@EITHER_MODEL
def test_preparing_keeps_every_published_name_and_value(pooled_toy, family):
    toy = pooled_toy(family)
    prepared = dict(toy.model(backend="auto").published_state())
    assert prepared.keys() == toy.state.keys()
    assert all(torch.equal(prepared[name], weight) for name, weight in toy.state.items())


@EITHER_MODEL
def test_every_token_sees_the_last_one_unlike_in_a_decoder(pooled_toy, family):
    toy = pooled_toy(family)
    ids = toy.ids(20)
    other = torch.cat([ids[:-1], (ids[-1:] + 1) % toy.raw["vocab_size"]])
    model = toy.model()
    changed = (hidden(model, ids) - hidden(model, other)).abs().amax(1)
    assert (changed > 0).all()
    decoder = Decoder(parse(toy.raw | {"architectures": ["MiniCPMForCausalLM"]}))
    decoder.load_state_dict({n: w for n, w in toy.state.items() if n != "score.weight"})
    changed = (hidden(decoder, ids) - hidden(decoder, other)).abs().amax(1)
    assert (changed[:-1] == 0).all()


def test_vectors_have_length_one(pooled_toy):
    toy = pooled_toy(EMBEDDING)
    lengths = results(toy.model(backend="auto"), *toy.sequences()).norm(dim=1)
    assert torch.allclose(lengths, torch.ones(len(LENGTHS)), atol=1e-6)


@EITHER_MODEL
def test_bfloat16_stays_near_float32_and_is_given_as_float32(pooled_toy, family):
    toy = pooled_toy(family)
    sequences = toy.sequences()
    rounded = {name: weight.bfloat16().float() for name, weight in toy.state.items()}
    exact = toy.model()
    exact.load_state_dict(rounded)
    found = results(toy.model(backend="auto", dtype=torch.bfloat16), *sequences)
    assert found.dtype == torch.float32
    assert (found - results(exact, *sequences)).abs().max() <= BFLOAT16


@EITHER_MODEL
def test_every_parameter_of_an_unprepared_model_gets_a_gradient(pooled_toy, family):
    toy = pooled_toy(family)
    model = toy.model()
    run = model.embeddings if family == EMBEDDING else model.scores
    weight = torch.randn(64, generator=torch.Generator().manual_seed(0)) if family == EMBEDDING else 1.0
    (run(Batch.of_sequences(*toy.sequences([20, 7]))) * weight).sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@EITHER_MODEL
def test_gradients_through_packed_texts_equal_those_of_separate_ones(pooled_toy, family):
    toy = pooled_toy(family)
    packed, separate = toy.model(), toy.model()
    sequences = toy.sequences([12, 12, 31])

    def loss(model, *ids):
        out = (model.embeddings if family == EMBEDDING else model.scores)(Batch.of_sequences(*ids))
        return (out**3).sum()

    loss(packed, *sequences).backward()
    for ids in sequences:
        loss(separate, ids).backward()
    wanted = dict(separate.named_parameters())
    for name, weight in packed.named_parameters():
        assert_same(weight.grad, wanted[name].grad, bound=10 * FLOAT32)  # sums over all tokens


# --- Configs.

RAW = {name: dict(by_name(name).raw) for name in ("MiniCPM-Embedding", "MiniCPM-Reranker")}


def test_the_architecture_tells_what_a_model_does():
    embedding, reranker = (parse(raw) for raw in RAW.values())
    assert embedding.head == Embedding(WeightedMean(), end=None)
    assert reranker.head == Relevance(separator=2, pooling=FirstToken())
    assert (embedding.context, reranker.context) == (512, 1024)
    assert not embedding.causal
    assert not reranker.causal
    decoder = parse(RAW["MiniCPM-Embedding"] | {"architectures": ["MiniCPMForCausalLM"]})
    assert decoder.causal
    assert decoder.family == "minicpm"
    assert decoder.layers == embedding.layers


def test_the_architecture_builds_the_module():
    with torch.device("meta"):
        assert isinstance(build(parse(RAW["MiniCPM-Embedding"])), EmbeddingModel)
        assert isinstance(build(parse(RAW["MiniCPM-Reranker"])), RerankingModel)
        assert isinstance(build(parse(by_name("MiniCPM-2B").raw)), Decoder)


def test_a_reranker_has_one_row_of_weights_more_and_neither_has_a_cache():
    embedding, reranker = (parse(raw) for raw in RAW.values())
    assert parameter_count(reranker) - parameter_count(embedding) == 2304
    assert cache_bytes(embedding, 512, "bfloat16") == cache_bytes(reranker, 1024, "bfloat16") == 0


@pytest.mark.parametrize("tied", [True, False, None])
def test_there_is_no_output_matrix_whatever_the_config_says_of_tying(tied):
    config = parse(RAW["MiniCPM-Embedding"] | {"tie_word_embeddings": tied})
    with torch.device("meta"):
        model = build(config)
    assert not any(name.startswith("lm_head") for name, _ in model.named_parameters())
    assert sum(weight.numel() for weight in model.parameters()) == parameter_count(config)


def test_the_longest_input_is_the_configs_up_to_its_positions():
    raw = RAW["MiniCPM-Embedding"]
    assert parse(raw | {"max_input_tokens": 2000}).context == 2000
    assert parse(raw | {"max_input_tokens": 10**6}).context == 4096
    assert parse(raw | {"max_position_embeddings": 300}).context == 300
    assert reach(parse(raw)) == 512
    assert extend(parse(raw), 100).context == 100


def test_longrope_marks_the_light_models_which_close_a_text_and_take_longer_ones():
    rope = {
        "type": "longrope",
        "short_factor": [1.0] * 32,
        "long_factor": [1.0] * 32,
        "original_max_position_embeddings": 8192,
    }
    light = parse(RAW["MiniCPM-Embedding"] | {"rope_scaling": rope, "max_position_embeddings": 8192})
    assert light.head == Embedding(end="<|im_end|>")
    assert light.context == 8192
    changed = light.raw | {"end_token": "", "max_input_tokens": 512}
    assert (parse(changed).head, parse(changed).context) == (Embedding(), 512)


def test_the_pooled_token_and_the_separator_are_the_configs():
    raw = RAW["MiniCPM-Reranker"] | {"pooled_token": "last", "separator_token_id": 7}
    assert parse(raw).head == Relevance(separator=7, pooling=LastToken())


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"pooled_token": "middle"}, "'middle' is neither first nor last"),
        ({"pooled_token": 3}, "pooled_token is 3"),
        ({"max_input_tokens": 0}, "max_input_tokens is 0"),
        ({"num_labels": 3}, "num_labels is 3"),
        ({"eos_token_id": []}, "neither separator_token_id nor eos_token_id"),
        ({"separator_token_id": "</s>"}, "separator_token_id is '</s>'"),
        ({"separator_token_id": 122753}, "separator_token_id 122753 is none of the ids"),
    ],
    ids=str,
)
def test_what_a_reranker_cannot_be_is_refused(changes, part):
    with pytest.raises(BadConfig, match=part):
        parse(RAW["MiniCPM-Reranker"] | changes)


def test_keys_of_the_other_kind_are_refused():
    with pytest.raises(UnreadConfig, match="pooled_token"):
        parse(RAW["MiniCPM-Embedding"] | {"pooled_token": "last"})
    with pytest.raises(UnreadConfig, match="end_token"):
        parse(RAW["MiniCPM-Reranker"] | {"end_token": "</s>"})
