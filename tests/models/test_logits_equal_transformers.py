"""Logits equal transformers' Llama through the muP fold, and its Granite with multipliers set.

The oracles' settings come from the raw config by the published rules, never through our parser.
"""

import math

import pytest
import torch

from minicpm.config import GQA, Dense, extend
from minicpm.models.registry import parse
from minicpm.testing import families, tiny_config

transformers = pytest.importorskip("transformers", reason="the oracle; pip install minicpm[dev]")

# Largest difference over largest logit. Float32 sums of at most 128 terms in another order over three
# layers: measured at most 5e-7 with muP's small residual branches and 1.2e-6 without.
FLOAT32 = 1e-5
# In units of bfloat16's rounding step 2^-8, against the same bfloat16 weights computed in float32.
# Measured at most 2.5 units with muP, where residual branches are a fraction of the stream, and 7.1
# without; transformers' own bfloat16 is 3.7 and 6.7 units away.
BFLOAT16_MUP = 4 * 2**-8
BFLOAT16_PLAIN = 10 * 2**-8

TOKENS = 130  # more than two pages, no multiple of anything


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def assert_close(ours, theirs, bound):
    found = difference(ours, theirs)
    row, column = divmod(int((ours - theirs).abs().argmax()), ours.shape[1])
    assert found <= bound, f"relative difference {found:.2e} over {bound:.2e}, at position {row}, id {column}"


def rope_parameters(raw):
    scaling = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    kind = scaling.pop("rope_type", None) or scaling.pop("type", None) or "default"
    scaling.pop("type", None)
    theta = scaling.pop("rope_theta", None) or raw.get("rope_theta", 10000.0)
    if kind == "su":
        kind = "longrope"
    return {"rope_type": kind, "rope_theta": theta} | scaling


def shared_settings(raw):
    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "rms_norm_eps",
        "max_position_embeddings",
    )
    settings = {name: raw[name] for name in names} | {"rope_parameters": rope_parameters(raw)}
    if "head_dim" in raw:
        settings["head_dim"] = raw["head_dim"]
    tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    return settings | tokens | {"attn_implementation": "eager"}


def mup(raw):
    """(embedding, residual, logit) scales; ones for a plain Llama."""
    if raw["architectures"] == ["LlamaForCausalLM"]:
        return 1.0, 1.0, 1.0
    residual = raw["scale_depth"] / math.sqrt(raw["num_hidden_layers"])
    return raw["scale_emb"], residual, raw["hidden_size"] / raw["dim_model_base"]


def fold(raw, state):
    """The weights of the llama-format conversion, folded in float64."""
    embed, residual, logit = mup(raw)
    folded = {name: weight.double() for name, weight in state.items()}
    embedding = folded["model.embed_tokens.weight"]
    folded["lm_head.weight"] = folded.get("lm_head.weight", embedding) / logit
    folded["model.embed_tokens.weight"] = embedding * embed
    branches = {
        name: weight * residual
        for name, weight in folded.items()
        if name.endswith(("o_proj.weight", "down_proj.weight"))
    }
    return folded | branches


def llama(raw, state, dtype=torch.float32):
    config = transformers.LlamaConfig(**shared_settings(raw), tie_word_embeddings=False)
    return filled(transformers.LlamaForCausalLM(config), fold(raw, state), dtype)


def granite(raw, state, dtype=torch.float32):
    embed, residual, logit = mup(raw)
    head_dim = raw.get("head_dim", raw["hidden_size"] // raw["num_attention_heads"])
    config = transformers.GraniteConfig(
        **shared_settings(raw),
        tie_word_embeddings=False,
        embedding_multiplier=embed,
        attention_multiplier=1 / math.sqrt(head_dim),
        residual_multiplier=residual,
        logits_scaling=logit,
    )
    head = state.get("lm_head.weight", state["model.embed_tokens.weight"])
    return filled(transformers.GraniteForCausalLM(config), state | {"lm_head.weight": head}, dtype)


def filled(model, state, dtype):
    model.load_state_dict({name: weight.to(dtype) for name, weight in state.items()}, strict=True)
    return model.to(dtype).eval()


@torch.no_grad()
def their_logits(model, ids):
    return model(ids[None]).logits[0].float()


@torch.no_grad()
def our_logits(decoder, ids):
    return decoder.logits_for(ids)


def is_plain(family):
    """True for what the oracles know: rotated softmax attention without a gate, then SiLU, and text alone."""
    config = parse(tiny_config(family))
    return config.vision is None and all(is_plain_layer(layer) for layer in config.layers)


def is_plain_layer(layer):
    mixer, ffn = layer.mixer, layer.ffn
    return mixer == GQA(mixer.heads, mixer.kv_heads, mixer.head_dim) and ffn == Dense(ffn.intermediate)


EVERY_MODEL = pytest.mark.parametrize("family", list(filter(is_plain, families())))
EITHER_HEAD = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
EITHER_ORACLE = pytest.mark.parametrize("oracle", [llama, granite], ids=["llama", "granite"])


@EVERY_MODEL
@EITHER_HEAD
@EITHER_ORACLE
def test_float32_logits_equal_the_oracle(toy, family, tied, oracle):
    model = toy(family, tie_word_embeddings=tied)
    ids = model.ids(TOKENS)
    assert_close(our_logits(model.decoder(), ids), their_logits(oracle(model.raw, model.state), ids), FLOAT32)


@EVERY_MODEL
@EITHER_HEAD
def test_bfloat16_logits_stay_as_near_to_float32_as_transformers_do(toy, family, tied):
    model = toy(family, tie_word_embeddings=tied)
    ids = model.ids(TOKENS)
    rounded = {name: weight.bfloat16().float() for name, weight in model.state.items()}
    exact = their_logits(granite(model.raw, rounded), ids)
    bound = BFLOAT16_PLAIN if mup(model.raw)[1] == 1 else BFLOAT16_MUP
    ours = our_logits(model.decoder(dtype=torch.bfloat16), ids)
    assert_close(ours, exact, bound)
    theirs = their_logits(granite(model.raw, rounded, torch.bfloat16), ids)
    assert difference(ours, exact) <= 1.5 * difference(theirs, exact)


@EVERY_MODEL
def test_float16_logits_stay_near_float32(toy, family):
    model = toy(family)
    ids = model.ids(TOKENS)
    rounded = {name: weight.half().float() for name, weight in model.state.items()}
    exact = their_logits(granite(model.raw, rounded), ids)
    # Float16 rounds in steps of 2^-11, an eighth of bfloat16's.
    assert_close(our_logits(model.decoder(dtype=torch.float16), ids), exact, BFLOAT16_PLAIN / 8)


def test_a_tied_head_divides_its_logits_like_an_untied_one(toy):
    model = toy("minicpm4-0.5b", tie_word_embeddings=True)
    head = {"lm_head.weight": model.state["model.embed_tokens.weight"]}
    untied = type(model)(model.raw | {"tie_word_embeddings": False}, model.state | head)
    ids = model.ids(20)
    assert torch.equal(our_logits(model.decoder(), ids), our_logits(untied.decoder(), ids))


@EITHER_ORACLE
@pytest.mark.parametrize("tokens", [30, 49, 100, 192])
def test_dynamic_ntk_equals_the_oracle_within_and_beyond_the_original_length(toy, oracle, tokens):
    model = toy("minicpm-2b-128k", max_position_embeddings=48)
    ids = model.ids(tokens)
    decoder = model.decoder(config=extend(model.config, tokens))
    assert_close(our_logits(decoder, ids), their_logits(oracle(model.raw, model.state), ids), FLOAT32)


def test_dynamic_ntk_beyond_the_original_length_is_not_default_rope(toy):
    model = toy("minicpm-2b-128k", max_position_embeddings=48)
    ids = model.ids(100)
    grown, native = (model.decoder(config=extend(model.config, n)) for n in (100, 48))
    assert difference(our_logits(grown, ids), our_logits(native, ids)) > 100 * FLOAT32


@EITHER_ORACLE
@pytest.mark.parametrize("spelling", ["type", "rope_type"])
def test_linear_rope_equals_the_oracle(toy, oracle, spelling):
    scaling = {spelling: "linear", "factor": 3.5}
    model = toy("minicpm-1b", rope_scaling=scaling)
    ids = model.ids(TOKENS)
    assert_close(our_logits(model.decoder(), ids), their_logits(oracle(model.raw, model.state), ids), FLOAT32)


SHORT = [1.0, 1.1, 1.2, 1.5, 2.0, 2.6, 3.1, 4.0]
LONG = [1.0, 1.3, 2.0, 3.3, 5.0, 8.0, 13.0, 21.0]


@EITHER_ORACLE
@pytest.mark.parametrize("spelling", ["type", "rope_type"])
@pytest.mark.parametrize("kind", ["longrope", "su"])
def test_longrope_is_read_in_every_spelling(toy, oracle, spelling, kind):
    factors = {"short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 256}
    model = toy("minicpm4-0.5b", max_position_embeddings=256, rope_scaling={spelling: kind} | factors)
    ids = model.ids(TOKENS)
    assert_close(our_logits(model.decoder(), ids), their_logits(oracle(model.raw, model.state), ids), FLOAT32)


@EITHER_ORACLE
def test_a_context_beyond_the_original_length_takes_the_long_list_and_an_attention_factor(toy, oracle):
    scaling = {
        "rope_type": "longrope",
        "short_factor": SHORT,
        "long_factor": LONG,
        "original_max_position_embeddings": 32,
    }
    model = toy("minicpm4-8b", max_position_embeddings=256, rope_scaling=scaling)
    assert model.config.rope.attention_scale == pytest.approx(math.sqrt(1 + math.log(8) / math.log(32)))
    ids = model.ids(TOKENS)
    assert_close(our_logits(model.decoder(), ids), their_logits(oracle(model.raw, model.state), ids), FLOAT32)


@EITHER_ORACLE
@pytest.mark.parametrize("given", [{"factor": 1.0}, {"factor": 6.5}, {"attention_factor": 1.37}], ids=str)
def test_a_factor_or_an_attention_factor_of_the_config_decides_the_scale(toy, oracle, given):
    scaling = {
        "rope_type": "longrope",
        "short_factor": LONG,
        "long_factor": LONG,
        "original_max_position_embeddings": 32,
    }
    model = toy("minicpm4-8b", max_position_embeddings=256, rope_scaling=scaling | given)
    ids = model.ids(TOKENS)
    assert_close(our_logits(model.decoder(), ids), their_logits(oracle(model.raw, model.state), ids), FLOAT32)


@pytest.mark.parametrize("oracle", [llama, granite], ids=["llama", "granite"])
def test_rope_parameters_of_newer_configs_are_read(toy, oracle):
    parameters = {
        "rope_type": "longrope",
        "rope_theta": 50000.0,
        "short_factor": SHORT,
        "long_factor": LONG,
        "original_max_position_embeddings": 256,
    }
    model = toy("minicpm4-0.5b", max_position_embeddings=256, rope_scaling=None, rope_parameters=parameters)
    ids = model.ids(TOKENS)
    assert_close(our_logits(model.decoder(), ids), their_logits(oracle(model.raw, model.state), ids), FLOAT32)


def test_a_config_written_by_transformers_is_read(toy):
    model = toy("minicpm5-1b")
    saved = llama(model.raw, model.state).config.to_dict() | {"architectures": ["LlamaForCausalLM"]}
    read = parse(saved)
    assert (read.rope, read.layers, read.context) == (model.config.rope, model.config.layers, 131072)


@EITHER_HEAD
def test_a_checkpoint_converted_to_the_llama_format_gives_its_originals_logits(toy, tied):
    model = toy("minicpm-2b", tie_word_embeddings=tied)
    plain = {
        key: value
        for key, value in model.raw.items()
        if key not in ("scale_emb", "scale_depth", "dim_model_base")
    }
    named = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": False}
    folded = type(model)(plain | named, {n: w.float() for n, w in fold(model.raw, model.state).items()})
    assert folded.config.family == "minicpm-llama"
    ids = model.ids(TOKENS)
    assert_close(our_logits(folded.decoder(), ids), our_logits(model.decoder(), ids), FLOAT32)


def test_folding_twice_is_refused(toy):
    """A llama-format config that still names muP scales cannot say whether they are folded."""
    from minicpm.errors import BadConfig

    with pytest.raises(BadConfig, match=r"scale_emb is 12.*folded"):
        parse(toy("minicpm-2b-llama-format").raw | {"scale_emb": 12})
