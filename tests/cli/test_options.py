"""Options that come from the fields of a dataclass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from minicpm.cli.options import field_docs, from_fields, number, plain_type, whole_number
from minicpm.cli.units import amount, columns, lines, size


@dataclass(frozen=True)
class Example:
    """Fields with and without docs."""

    first: int | None = None
    """The first,
    on two lines."""
    second: float = 0.5
    third: Sequence[str] = ()
    """The third."""


def test_docs_are_the_strings_below_fields():
    assert field_docs(Example) == {"first": "The first, on two lines.", "third": "The third."}


@pytest.mark.parametrize(
    ("hint", "kind"), [(int | None, int), (float, float), (Sequence[str], list[str]), (bool | None, bool)]
)
def test_types_become_those_of_one_value(hint, kind):
    assert plain_type(hint) == kind


def test_chosen_fields_replace_the_parameter_they_fill():
    import inspect

    seen: list[Any] = []

    @from_fields("example", Example, ["first", "second"], panel="Panel")
    def whole(name: str, *, example: Example) -> None:
        seen.append((name, example))

    @from_fields("example", Example, ["first", "third"], panel="Panel", given_only=True)
    def given(*, example: dict[str, Any]) -> None:
        seen.append(example)

    assert list(inspect.signature(whole).parameters) == ["name", "first", "second"]
    assert inspect.signature(whole).parameters["second"].default == 0.5
    assert inspect.signature(given).parameters["first"].default is None
    whole(name="x", first=1, second=2.0)
    given(first=None, third=["a"])
    given(first=0, third=[])
    assert seen == [("x", Example(1, 2.0)), {"third": ["a"]}, {"first": 0}]


def test_numbers_are_parsed_and_defaults_left_alone():
    import typer

    assert (number("0.5"), number(None), whole_number("-3"), whole_number(7)) == (0.5, None, -3, 7)
    with pytest.raises(typer.BadParameter, match=r"'1\.5' is not a whole number"):
        whole_number("1.5")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 20, "3.0 MiB"), (5 << 30, "5.00 GiB")],
)
def test_sizes_are_readable(count, text):
    assert size(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(870_000, "870 k"), (4_200_000, "4.2 M"), (433_873_920, "434 M"), (8_185_253_888, "8.19 B")],
)
def test_amounts_are_readable(count, text):
    assert amount(count) == text


def test_tables_are_aligned():
    assert columns([("A", "B"), ("long", "x")]) == ["A     B", "long  x"]
    assert lines([("a", "1\n2"), ("long", "3")]) == ["a     1\n      2", "long  3"]
