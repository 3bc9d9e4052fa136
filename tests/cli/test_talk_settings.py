"""Settings of a chat are those of the Python API, checked the same way."""

from dataclasses import fields

import pytest

from minicpm.cli.talk.settings import SAMPLING, Settings
from minicpm.engine.sampling import SamplingParams
from minicpm.errors import BadInput, BadParameter


def test_only_what_was_chosen_is_passed_on():
    assert Settings().chat_options() == {"thinking": "auto"}
    chosen = Settings(thinking="off", truncate=True, sampling={"seed": 3})
    assert chosen.chat_options() == {"thinking": "off", "truncate": True, "seed": 3}


def test_every_setting_is_a_field_of_the_sampling_parameters():
    assert set(SAMPLING) <= {field.name for field in fields(SamplingParams)}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("temperature", "0.5", 0.5),
        ("top-k", "40", 40),
        ("top_k", "40", 40),
        ("stop", r"a\n\nb c", ("a\n\nb c",)),
        ("seed", "-1", -1),
        ("ignore_eos", "on", True),
    ],
)
def test_values_are_read_by_the_kind_of_their_field(key, text, value):
    settings = Settings()
    settings.set(key, text)
    assert settings.sampling == {key.replace("-", "_"): value}
    settings.set(key, "default")
    assert settings.sampling == {}


@pytest.mark.parametrize(
    ("key", "text", "named"),
    [
        ("temperature", "hot", "a number"),
        ("temperature", "nan", "temperature"),
        ("top_k", "1.5", "a whole number"),
        ("max_tokens", "0", "max_tokens"),
        ("temprature", "1", "'temperature'"),
        ("thinking", "perhaps", "on, off, auto"),
        ("truncate", "perhaps", "on or off"),
    ],
)
def test_a_wrong_value_is_refused_and_changes_nothing(key, text, named):
    settings = Settings(sampling={"seed": 1})
    with pytest.raises((BadInput, BadParameter), match=named):
        settings.set(key, text)
    assert settings.saved() == Settings(sampling={"seed": 1}).saved()


def test_wrong_values_are_refused_from_the_start():
    with pytest.raises(BadParameter, match="temperature"):
        Settings(sampling={"temperature": -1})


def test_saved_settings_are_restored_and_strange_ones_refused():
    settings = Settings()
    settings.restore({"thinking": "on", "truncate": True, "sampling": {"seed": 5, "logit_bias": {}}})
    assert settings.saved() == {"thinking": "on", "truncate": True, "sampling": {"seed": 5}}
    with pytest.raises(BadParameter):
        settings.restore({"sampling": {"seed": "five"}})
    assert settings.sampling == {"seed": 5}


def test_every_setting_is_described():
    rows = Settings(sampling={"seed": 5}).described()
    assert ("seed", "5") in [row[:2] for row in rows]
    assert all(text.endswith(".") for _, _, text in rows)
