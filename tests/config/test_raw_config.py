"""RawConfig checks types, collects every problem and notices every key that nobody read."""

import pytest

from minicpm.config import RawConfig
from minicpm.errors import BadConfig, UnreadConfig


def refusal(raw: RawConfig) -> str:
    with pytest.raises(BadConfig) as caught:
        raw.finish()
    return str(caught.value)


def test_all_problems_come_in_one_message():
    raw = RawConfig({"a": "x", "b": 0, "c": [1], "d": 1, "f": {"g": None}, "h": 3})
    raw.integer("a")
    raw.number("b")
    raw.text("c", "")
    raw.boolean("d", True)
    raw.integer("e")
    raw.child("f").number("g")
    raw.child("h")
    message = refusal(raw)
    for part in ("a is 'x'", "b is 0", "c is [1]", "d is 1", "e is missing", "g is missing", "h is 3"):
        assert part in message
    assert "(f in config.json)" in message


def test_unread_keys_come_in_one_message_with_their_place():
    raw = RawConfig({"known": 1, "first": 2, "nested": {"second": 3}})
    raw.integer("known")
    raw.child("nested")
    with pytest.raises(UnreadConfig, match=r"first \(config.json\), second \(nested in config.json\)"):
        raw.finish()


def test_problems_come_before_unread_keys():
    raw = RawConfig({"bad": "x", "unread": 1})
    raw.integer("bad")
    assert "unread" not in refusal(raw)


def test_a_nested_object_nobody_opened_is_unread():
    with pytest.raises(UnreadConfig, match="nested"):
        RawConfig({"nested": {"a": 1}}).finish()


@pytest.mark.parametrize(
    "key", ["torch_dtype", "auto_map", "transformers_version", "use_cache", "mup_denominator"]
)
def test_keys_without_effect_need_no_reader(key):
    RawConfig({key: object()}).finish()


def test_ignored_keys_count_as_read():
    raw = RawConfig({"a": 1, "b": 2})
    raw.ignore("a", "b")
    raw.finish()


@pytest.mark.parametrize("value", ["1", 1.0, 1.5, True, [1], {}, 0, -1, 2**20 + 1, 10**400])
def test_only_integers_in_range_are_integers(value):
    raw = RawConfig({"n": value})
    raw.integer("n", 3)
    assert "n is " in refusal(raw)


@pytest.mark.parametrize("value", ["1", True, [], 0, -0.5, float("nan"), float("inf"), 10**400])
def test_only_finite_positive_numbers_are_numbers(value):
    raw = RawConfig({"n": value})
    raw.number("n", 3)
    assert "n is " in refusal(raw)


@pytest.mark.parametrize(
    "value", ["[1]", 1, [1, "2"], [1, None], [1, 0], [1, -1], [1, float("nan")], [[1, 2]]]
)
def test_only_lists_of_positive_numbers_are_lists_of_numbers(value):
    raw = RawConfig({"n": value})
    raw.numbers("n", 2)
    assert "a list of 2 positive numbers" in refusal(raw)


def test_a_list_of_the_wrong_length_says_both_lengths():
    raw = RawConfig({"n": [1.0] * 31})
    raw.numbers("n", 32)
    assert "n is a list of 31, where a list of 32 positive numbers is needed" in refusal(raw)


@pytest.mark.parametrize(("value", "wanted"), [(2, (2,)), ([2, 5], (2, 5)), (None, (7,)), ([], ())])
def test_token_ids_are_one_or_several(value, wanted):
    raw = RawConfig({"eos": value})
    assert raw.tokens("eos", (7,)) == wanted
    raw.finish()


@pytest.mark.parametrize("value", [-1, "2", 2.0, True, [2, None], {"id": 2}])
def test_only_ids_from_zero_are_token_ids(value):
    raw = RawConfig({"eos": value})
    raw.tokens("eos", ())
    assert "eos is " in refusal(raw)


def test_null_means_absent():
    raw = RawConfig(dict.fromkeys("abcdef"))
    assert raw.integer("a", 3) == 3
    assert raw.number("b", 0.5) == 0.5
    assert raw.boolean("c", True) is True
    assert raw.text("d", "x") == "x"
    assert raw.child("e") is None
    assert raw.token("f", None) is None
    raw.finish()


def test_long_values_are_cut_in_messages():
    raw = RawConfig({"n": ["x" * 10_000] * 10_000})
    raw.integer("n")
    assert len(refusal(raw)) < 1000


def test_values_that_were_refused_are_not_sound():
    raw = RawConfig({"a": "x", "b": 1, "c": "gelu"})
    raw.integer("a")
    raw.integer("b")
    raw.expect("c", ("silu",), "only silu is known")
    assert raw.sound("b")
    assert not raw.sound("a", "b")
    assert not raw.sound("c")


def test_an_expected_value_or_its_absence_passes():
    raw = RawConfig({"bias": False})
    raw.expect("bias", (False,), "no biases")
    raw.expect("absent", (1,), "no others")
    raw.finish()
