"""Sampling parameters refuse what has no meaning, all at once."""

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicpm.engine.sampling import SamplingParams
from minicpm.errors import BadParameter


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("temperature", True),
        ("temperature", None),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", -1),
        ("presence_penalty", math.inf),
        ("frequency_penalty", math.nan),
        ("seed", 2**64),
        ("seed", 0.5),
        ("n", 0),
        ("n", 2**31),
        ("logprobs", -1),
        ("logprobs", 10**6),
        ("prompt_logprobs", -1),
        ("max_tokens", 0),
        ("max_tokens", -5),
        ("max_tokens", 1e308),
        ("min_tokens", -1),
        ("ignore_eos", 1),
        ("stop", ["x"] * 10_000),
        ("stop", ["x" * 10_001]),
        ("stop", ["x" * 6_000, "y" * 6_000]),
        ("stop", [""]),
        ("stop", [1]),
        ("stop", 7),
        ("stop_ids", [-1]),
        ("stop_ids", ["a"]),
        ("stop_ids", list(range(2_000))),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {1: math.inf}),
        ("logit_bias", {-1: 0.0}),
        ("logit_bias", {"a": 0.0}),
        ("logit_bias", dict.fromkeys(range(2_000), 0.0)),
        ("logit_bias", [1]),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(BadParameter, match=name):
        SamplingParams(**{name: value})


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(BadParameter) as caught:
        SamplingParams(temperature=-1, top_p=2, max_tokens=0, stop=[""], logit_bias={1: math.nan})
    for name in ("temperature", "top_p", "max_tokens", "stop", "logit_bias"):
        assert name in str(caught.value)


def test_the_message_shows_range_and_value() -> None:
    with pytest.raises(BadParameter, match=r"top_p must be a number in \(0, 1\], not 1\.5"):
        SamplingParams(top_p=1.5)


def test_min_tokens_may_not_exceed_max_tokens() -> None:
    with pytest.raises(BadParameter, match="min_tokens 5 exceeds max_tokens 3"):
        SamplingParams(min_tokens=5, max_tokens=3)


def test_the_ends_of_the_ranges_are_accepted() -> None:
    SamplingParams(temperature=0, top_p=1, min_p=1, top_k=0, n=64, seed=-1, stop=["x"] * 1_000)
    SamplingParams(logit_bias={0: -math.inf}, logprobs=0, min_tokens=3, max_tokens=3, temperature=1e-300)


def test_one_stop_string_needs_no_list() -> None:
    assert SamplingParams(stop="end").stop == ("end",)


def test_options_override_defaults_and_unknown_names_are_refused() -> None:
    params = SamplingParams.of({"top_p": 0.5}, {"top_p": 0.9, "temperature": 0.3})
    assert (params.top_p, params.temperature) == (0.5, 0.3)
    with pytest.raises(BadParameter, match="Unknown sampling parameters: temprature"):
        SamplingParams.of({"temprature": 1})


_anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=3),
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list(SamplingParams.__dataclass_fields__)), _anything))
def test_whatever_is_passed_is_accepted_or_refused_by_our_error(options: dict[str, Any]) -> None:
    with contextlib.suppress(BadParameter):
        SamplingParams(**options)
