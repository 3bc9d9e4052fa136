"""A checkpoint's own sampling settings come first, then its family's."""

import pytest

from minicpm.engine.defaults import _FAMILIES, end_ids, sampling_defaults
from minicpm.engine.sampling import SamplingParams
from minicpm.errors import BadConfig
from minicpm.models.registry import families


def test_the_file_wins_over_the_family() -> None:
    assert sampling_defaults({"do_sample": True, "temperature": 0.2}, "minicpm4") == {"temperature": 0.2}


def test_a_file_without_settings_leaves_the_family_s() -> None:
    silent = {"eos_token_id": 2, "do_sample": True, "temperature": None}
    assert sampling_defaults(silent, "minicpm4") == {"temperature": 0.7, "top_p": 0.7}


def test_sampling_switched_off_is_greedy() -> None:
    assert sampling_defaults({"do_sample": False, "temperature": 0.7}, "minicpm4") == {"temperature": 0.0}


def test_minicpm5_is_cooler_without_thinking() -> None:
    assert sampling_defaults({}, "minicpm5", thinking="on")["temperature"] == 0.9
    assert sampling_defaults({}, "minicpm5", thinking="off")["temperature"] == 0.7


def test_broken_settings_are_blamed_on_the_file() -> None:
    with pytest.raises(BadConfig, match=r"generation_config\.json.*temperature"):
        sampling_defaults({"temperature": -3}, "minicpm4")


def test_every_family_has_defaults_that_are_valid() -> None:
    chatting = {family.name for family in families() if family.template != "none"}
    assert chatting <= set(_FAMILIES)
    for settings in _FAMILIES.values():
        SamplingParams.of(settings)


@pytest.mark.parametrize(("eos", "ids"), [(2, {2}), ([2, 73440], {2, 73440}), (None, set())])
def test_end_tokens_may_be_one_or_a_list(eos: object, ids: set[int]) -> None:
    assert end_ids({"eos_token_id": eos}) == ids
