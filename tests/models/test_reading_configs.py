"""A raw config becomes a ModelConfig or one error that says everything that is wrong with it."""

import copy
import random

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from minicpm.config import Dense, FATReLU, ModelConfig, MoE, SparseConfig, extend, parameter_count, reach
from minicpm.errors import BadConfig, ConfigError, UnknownModel, UnreadConfig
from minicpm.models.published import by_name, published
from minicpm.models.registry import families, parse

MINICPM = dict(by_name("MiniCPM4-8B").raw)
LLAMA = dict(by_name("MiniCPM5-1B").raw)


def without(raw, *keys):
    return {key: value for key, value in raw.items() if key not in keys}


def refusal(raw, kind=BadConfig) -> str:
    with pytest.raises(kind) as caught:
        parse(raw)
    return str(caught.value)


@pytest.mark.parametrize("row", published(), ids=lambda row: row.name)
def test_every_published_config_is_read_in_full(row):
    config = parse(row.raw)
    assert config.raw == row.raw
    assert (config.hidden, config.vocab) == (row.raw["hidden_size"], row.raw["vocab_size"])
    assert len(config.layers) == row.raw["num_hidden_layers"]
    assert config.dtype == "bfloat16"


def test_every_wrong_value_is_reported_at_once():
    broken = MINICPM | {
        "hidden_size": "wide",
        "num_hidden_layers": 0,
        "rms_norm_eps": -1,
        "tie_word_embeddings": "no",
        "torch_dtype": 16,
        "eos_token_id": [2, "</s>"],
        "scale_depth": [],
        "rope_scaling": {"rope_type": "longrope", "short_factor": [0], "long_factor": "x"},
    }
    message = refusal(broken)
    wrong = [key for key in broken if broken[key] != MINICPM[key] and key != "rope_scaling"]
    assert len(wrong) == 7
    for key in [*wrong, "short_factor", "long_factor"]:
        assert f"{key} is " in message, key


def test_a_wrong_size_causes_no_second_false_complaint():
    message = refusal(MINICPM | {"num_attention_heads": "32"})
    assert "num_attention_heads is '32'" in message
    assert ";" not in message


@pytest.mark.parametrize("key", ["hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"])
@pytest.mark.parametrize("raw", [MINICPM, LLAMA], ids=["minicpm", "llama"])
def test_a_size_without_a_default_must_be_there(raw, key):
    assert f"{key} is missing" in refusal(without(raw, key))


def test_keys_nobody_reads_are_refused_by_name():
    message = refusal(MINICPM | {"sliding_window": 4096, "qk_norm": True}, UnreadConfig)
    assert "qk_norm (config.json), sliding_window (config.json)" in message


@pytest.mark.parametrize(
    "extra",
    [{"beta_fast": 32}, {"short_mscale": 1.2}, {"low_freq_factor": 1.0}, {"partial_rotary_factor": 0.5}],
)
def test_a_half_known_rope_scaling_is_refused_by_the_unknown_half(extra):
    scaling = dict(MINICPM["rope_scaling"]) | extra
    message = refusal(MINICPM | {"rope_scaling": scaling}, UnreadConfig)
    assert f"{next(iter(extra))} (rope_scaling in config.json)" in message


@pytest.mark.parametrize("kind", ["yarn", "llama3", "ntk", "LongRoPE"])
def test_an_unknown_rope_is_refused_by_name(kind):
    assert f"rope type '{kind}'" in refusal(MINICPM | {"rope_scaling": {"type": kind, "factor": 2.0}})


def test_two_names_of_different_ropes_are_a_contradiction():
    scaling = dict(MINICPM["rope_scaling"]) | {"type": "dynamic"}
    assert "dynamic and longrope" in refusal(MINICPM | {"rope_scaling": scaling})


def test_two_names_of_the_same_rope_agree():
    scaling = dict(MINICPM["rope_scaling"]) | {"type": "su"}
    assert parse(MINICPM | {"rope_scaling": scaling}).rope == parse(MINICPM).rope


@pytest.mark.parametrize("kind", ["linear", "dynamic"])
def test_a_scaling_without_its_factor_is_refused(kind):
    assert "factor is missing" in refusal(MINICPM | {"rope_scaling": {"type": kind}})


def test_both_rope_dialects_at_once_are_refused():
    parameters = {"rope_type": "default", "rope_theta": 5.0}
    assert "rope_theta (rope_parameters in config.json)" in refusal(
        MINICPM | {"rope_parameters": parameters}, UnreadConfig
    )


@pytest.mark.parametrize(
    "architectures",
    [
        ["MiniCPM9ForCausalLM"],
        ["MistralForCausalLM"],
        ["MiniCPMForTokenClassification"],
        ["minicpmforcausallm"],
    ],
)
def test_an_unknown_architecture_is_refused_with_the_known_ones(architectures):
    message = refusal(MINICPM | {"architectures": architectures}, UnknownModel)
    assert architectures[0] in message
    assert all(name in message for family in families() for name in family.architectures)


def test_a_config_that_names_nothing_is_refused():
    refusal(without(MINICPM, "architectures", "model_type"), UnknownModel)
    refusal({}, UnknownModel)


def test_an_unknown_model_type_alone_is_refused():
    assert "'gpt2'" in refusal({"model_type": "gpt2"}, UnknownModel)


@pytest.mark.parametrize("raw", [MINICPM, LLAMA], ids=["minicpm", "llama"])
def test_either_the_architecture_or_the_model_type_is_enough(raw):
    assert parse(without(raw, "model_type")) == parse(without(raw, "architectures")) == parse(raw)


def test_experts_are_read_with_how_many_a_token_uses():
    raw = MINICPM | {"num_experts": 8, "num_experts_per_tok": 2}
    assert {layer.ffn for layer in parse(raw).layers} == {MoE(16384, experts=8, chosen=2)}
    assert "num_experts_per_tok is missing" in refusal(without(raw, "num_experts_per_tok"))
    assert "num_experts_per_tok 9 is more than num_experts 8" in refusal(raw | {"num_experts_per_tok": 9})


def test_experts_with_another_activation_are_refused():
    raw = MINICPM | {"num_experts": 8, "num_experts_per_tok": 2, "hidden_act": "fatrelu"}
    assert "experts are only known with silu" in refusal(raw)


def test_zero_experts_mean_a_dense_model():
    assert parse(MINICPM | {"num_experts": 0, "num_experts_per_tok": 0}) == parse(MINICPM)


def test_fatrelu_is_read_with_its_threshold():
    raw = MINICPM | {"hidden_act": "fatrelu"}
    assert parse(raw | {"hidden_act_param": 0.02}).layers[0].ffn == Dense(16384, FATReLU(0.02))
    assert parse(raw | {"hidden_act_param": 0}).layers[0].ffn == Dense(16384, FATReLU(0.0))
    assert parse(raw).layers[0].ffn == Dense(16384, FATReLU(0.01))
    assert "hidden_act_param is -0.01, where a number from 0 on is needed" in refusal(
        raw | {"hidden_act_param": -0.01}
    )


def test_a_threshold_without_fatrelu_is_refused():
    assert "only fatrelu takes a parameter" in refusal(MINICPM | {"hidden_act_param": 0.01})


@pytest.mark.parametrize(("raw", "kind"), [(MINICPM, "relu"), (LLAMA, "fatrelu")])
def test_an_activation_the_family_does_not_have_is_refused_by_name(raw, kind):
    assert f"hidden_act is '{kind}'" in refusal(raw | {"hidden_act": kind})


@pytest.mark.parametrize("key", ["attention_bias", "mlp_bias"])
def test_biases_are_refused(key):
    assert f"{key} is True" in refusal(LLAMA | {key: True})


def test_a_missing_tie_word_embeddings_means_tied_for_minicpm_and_untied_for_llama():
    assert parse(without(MINICPM, "tie_word_embeddings")).tied
    assert not parse(without(LLAMA, "tie_word_embeddings")).tied


def test_missing_keys_take_the_config_classes_defaults():
    config = parse(
        without(MINICPM, "scale_emb", "scale_depth", "dim_model_base", "rms_norm_eps", "rope_scaling")
    )
    assert (config.embed_scale, config.logit_scale, config.norm_eps) == (1, 4096, 1e-6)
    assert config.residual_scale == pytest.approx(1 / 32**0.5)
    assert config.rope.theta == 10000
    least = parse(
        {"architectures": ["MiniCPMForCausalLM"]}
        | dict.fromkeys(("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"), 8)
        | {"num_attention_heads": 4}
    )
    assert (least.context, least.layers[0].mixer.kv_heads, least.bos, least.eos, least.pad) == (
        2048,
        4,
        1,
        (2,),
        None,
    )


def test_heads_that_do_not_divide_are_refused_with_the_numbers():
    assert "4096 is not a multiple of num_attention_heads 33" in refusal(
        MINICPM | {"num_attention_heads": 33}
    )
    assert "32 is not a multiple of num_key_value_heads 3" in refusal(MINICPM | {"num_key_value_heads": 3})
    assert "head_dim 127 is odd" in refusal(LLAMA | {"head_dim": 127})


def test_dynamic_ntk_of_heads_two_wide_is_refused():
    raw = without(MINICPM, "rope_scaling") | {"num_attention_heads": 2048, "num_key_value_heads": 2048}
    assert "wider than 2" in refusal(raw | {"rope_scaling": {"type": "dynamic", "factor": 2.0}})


def test_a_sparse_config_is_read():
    values = {
        "kernel_size": 32,
        "kernel_stride": 16,
        "init_blocks": 1,
        "block_size": 64,
        "window_size": 2048,
        "topk": 64,
        "use_nope": False,
        "dense_len": 8192,
    }
    config = parse(MINICPM | {"sparse_config": values})
    assert config.sparse == SparseConfig(**values)
    assert all(layer.mixer.sparse == config.sparse for layer in config.layers)
    assert parse(MINICPM).sparse is None
    assert parse(MINICPM).notes == ()


def test_a_sparse_config_may_force_sparse_attention_and_leave_values_out():
    config = parse(MINICPM | {"sparse_config": {"topk": 4, "dense_len": -1}})
    assert config.sparse == SparseConfig(topk=4, dense_len=-1)


def test_a_half_known_sparse_config_is_refused():
    assert "stripe (sparse_config in config.json)" in refusal(
        MINICPM | {"sparse_config": {"stripe": 2}}, UnreadConfig
    )
    assert "topk is 'all'" in refusal(MINICPM | {"sparse_config": {"topk": "all"}})


def test_names_and_templates_of_families_are_distinct_where_they_should_be():
    names = [family.name for family in families()]
    assert len(set(names)) == len(names)
    assert {family.dialect for family in families()} == {"none", "py-call", "xml-fn"}


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 300),
    st.sampled_from([10**6, 2**31, 2**63, 10**30, 10**400]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([1e-300, 1e300, 0.5, 1.0]),
    st.text(max_size=4),
    st.sampled_from(["silu", "longrope", "su", "dynamic", "linear", "default", "yarn", "float32"]),
    st.lists(st.one_of(st.integers(-1, 9), st.floats(), st.text(max_size=2), st.none()), max_size=4),
    st.dictionaries(
        st.sampled_from(["type", "rope_type", "factor", "topk", "rope_theta", "zzz"]),
        st.integers(),
        max_size=3,
    ),
)
KEYS = sorted({key for row in published() for key in row.raw} | {"rope_parameters", "sparse_config", "dtype"})
INNER = ["type", "rope_type", "factor", "attention_factor", "short_factor", "long_factor", "rope_theta"]
INNER += ["original_max_position_embeddings", "unheard_of"]


@st.composite
def mutated_configs(draw):
    """A published config with some keys replaced, removed or added, inside its rope scaling too."""
    raw = copy.deepcopy(dict(draw(st.sampled_from(published())).raw))
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=3)):
        raw[key] = draw(JUNK)
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=2)):
        raw.pop(key, None)
    if draw(st.booleans()):
        scaling = dict(raw.get("rope_scaling") or {}) if isinstance(raw.get("rope_scaling"), dict) else {}
        for key in draw(st.lists(st.sampled_from(INNER), max_size=3)):
            scaling[key] = draw(JUNK)
        raw[draw(st.sampled_from(["rope_scaling", "rope_parameters"]))] = scaling
    return raw


@settings(max_examples=2000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(mutated_configs())
def test_any_config_is_read_or_refused_and_never_crashes(raw):
    try:
        config = parse(raw)
    except ConfigError as error:
        event(type(error).__name__)
        return
    assert isinstance(config, ModelConfig)
    assert parameter_count(config) > 0
    extend(config, reach(config))
    widths = {getattr(layer.mixer, "rope", layer.mixer.head_dim) for layer in config.layers}
    assert config.rope.dim in widths


def test_the_order_of_keys_changes_nothing():
    shuffled = list(MINICPM.items())
    random.Random(0).shuffle(shuffled)
    assert parse(dict(shuffled)) == parse(MINICPM)
