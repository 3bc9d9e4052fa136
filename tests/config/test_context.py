"""A context is raised only where a published way exists, and every refusal says the numbers."""

import pytest

from minicpm.config import DefaultRope, LinearRope, LongRope, extend, reach, rope_tables
from minicpm.config.rope import DynamicNTKRope, long_rope_attention_scale
from minicpm.errors import BadParameter
from minicpm.models.published import by_name, published
from minicpm.models.registry import parse


def config_of(name, **changes):
    return parse(dict(by_name(name).raw) | changes)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("MiniCPM4-8B", rope_tables.MINICPM4_8B_128K),
        ("MiniCPM4.1-8B", rope_tables.MINICPM41_8B_128K),
    ],
)
@pytest.mark.parametrize("tokens", [100_000, 131_072])
def test_128k_swaps_both_lists_and_keeps_the_attention_scale_at_one(name, table, tokens):
    rope = extend(config_of(name), tokens).rope
    assert isinstance(rope, LongRope)
    assert rope.short == rope.long == rope.factors == table
    assert rope.attention_scale == 1


@pytest.mark.parametrize("name", ["MiniCPM4-8B", "MiniCPM4.1-8B", "MiniCPM4-0.5B", "MiniCPM-2B"])
def test_within_the_native_context_only_the_limit_changes(name):
    native = config_of(name)
    for tokens in (1, 1000, native.context):
        shorter = extend(native, tokens)
        assert (shorter.context, shorter.rope) == (tokens, native.rope)


REACHES = {
    "MiniCPM-2B": 4096,
    "MiniCPM-1B": 4096,
    "OmniLMM-12B": 4096,
    "MiniCPM-MoE-8x2B": 4096,
    "MiniCPM-S-1B": 4096,
    "MiniCPM-V": 4096,
    "MiniCPM-2B-128k": 4 * 65536,
    "MiniCPM3-4B": 32768,
    "MiniCPM4-8B": 131072,
    "MiniCPM4-0.5B": 32768,
    "MiniCPM4.1-8B": 131072,
    "BitCPM4-1B": 32768,
    "BitCPM4-0.5B": 32768,
    "MiniCPM-Embedding": 512,
    "MiniCPM-Reranker": 1024,
    "MiniCPM-SALA": 524288,
    "MiniCPM-2B-llama-format": 4096,
    "MiniCPM5-1B": 131072,
}


@pytest.mark.parametrize(("name", "reached"), REACHES.items())
def test_every_model_reaches_its_published_limit_and_not_a_token_more(name, reached):
    config = config_of(name)
    assert reach(config) == reached
    assert extend(config, reached).context == reached
    with pytest.raises(BadParameter) as refusal:
        extend(config, reached + 1)
    assert str(reached + 1) in str(refusal.value)
    assert f"at most {reached}." in str(refusal.value)


def test_all_published_models_are_in_the_table_above():
    assert {row.name for row in published()} == set(REACHES)


def test_a_refusal_names_the_native_context_where_it_is_another():
    with pytest.raises(BadParameter, match=r"200000 tokens .* reaches 131072 \(32768 natively\)"):
        extend(config_of("MiniCPM4-8B"), 200_000)


@pytest.mark.parametrize("tokens", [0, -5])
def test_an_empty_context_is_refused(tokens):
    with pytest.raises(BadParameter, match=f"context of {tokens} tokens"):
        extend(config_of("MiniCPM-2B"), tokens)


def test_the_128k_table_is_not_given_to_lists_it_does_not_belong_to():
    raw = by_name("MiniCPM4-8B").raw
    factors = [*rope_tables.MINICPM4_8B[:-1], 31.5]
    edited = config_of("MiniCPM4-8B", rope_scaling=dict(raw["rope_scaling"]) | {"long_factor": factors})
    assert reach(edited) == 32768


def test_a_raised_max_position_in_the_config_applies_the_papers_attention_scale():
    """1.0646 and 1.0308 for the two published 128K tables, as transformers applies them."""
    for name, scale in [("MiniCPM4-8B", 1.0646), ("MiniCPM4.1-8B", 1.0308)]:
        raised = config_of(name, max_position_embeddings=131072)
        assert raised.rope.attention_scale == pytest.approx(scale, abs=5e-5)
        assert reach(raised) == 131072


def test_the_attention_scale_is_one_within_the_original_length():
    assert long_rope_attention_scale(4096, 4096) == long_rope_attention_scale(1, 4096) == 1


def test_dynamic_ntk_keeps_its_base_up_to_the_original_length():
    native = config_of("MiniCPM-2B-128k").rope
    assert isinstance(native, DynamicNTKRope)
    assert native.base == native.theta


def test_dynamic_ntk_raises_its_base_with_the_context_and_forgets_it_again():
    native = config_of("MiniCPM-2B-128k")
    far = extend(native, 131072)
    assert far.rope.base == pytest.approx(native.rope.theta * (4 * 2 - 3) ** (64 / 62))
    assert extend(far, 65536).rope == native.rope


def test_dynamic_ntk_takes_its_original_length_from_the_scaling_when_it_is_there():
    scaling = {"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 1024}
    config = config_of("MiniCPM-2B", rope_scaling=scaling)
    assert (config.rope.original, config.rope.length, reach(config)) == (1024, 4096, 4096)


@pytest.mark.parametrize(
    ("rope", "wanted"),
    [
        ({"rope_scaling": None}, DefaultRope(10000.0, 64)),
        ({"rope_scaling": {"type": "default"}}, DefaultRope(10000.0, 64)),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, LinearRope(10000.0, 64, 2.0)),
        ({"rope_theta": 500, "rope_scaling": None}, DefaultRope(500.0, 64)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7e4}}, DefaultRope(7e4, 64)),
    ],
    ids=str,
)
def test_ropes_are_read_from_either_dialect(rope, wanted):
    assert config_of("MiniCPM-2B", **rope).rope == wanted
