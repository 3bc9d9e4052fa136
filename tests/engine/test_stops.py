"""Stop strings are found wherever pieces are cut, and nothing before them is lost."""

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from minicpm.engine.stops import StopMatcher, StopSet


def cut(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(StopSet(stops))
    text = ""
    for piece in pieces:
        found = matcher.push(piece)
        text += found.text
        if found.stopped:
            return text, True
    return text + matcher.finish(), False


def naive(text: str, stops: list[str]) -> tuple[str, bool]:
    for end in range(1, len(text) + 1):
        starts = [end - len(s) for s in stops if text[:end].endswith(s)]
        if starts:
            return text[: min(starts)], True
    return text, False


letters = st.text(alphabet="ab", max_size=30)
stop_lists = st.lists(st.text(alphabet="ab", min_size=1, max_size=5), min_size=1, max_size=4)


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab", max_size=6), max_size=10), stop_lists)
def test_any_split_gives_what_a_naive_search_gives(pieces: list[str], stops: list[str]) -> None:
    assert cut(pieces, stops) == naive("".join(pieces), stops)


def test_text_that_cannot_begin_a_stop_is_not_held_back() -> None:
    matcher = StopMatcher(StopSet(["END"]))
    assert matcher.push("abcE").text == "abc"
    assert matcher.push("Nx").text == "ENx"


def test_only_the_possible_beginning_is_held_back() -> None:
    matcher = StopMatcher(StopSet(["aab"]))
    assert matcher.push("aaa").text == "a"
    assert matcher.finish() == "aa"


def test_the_longest_of_the_stops_that_end_together_is_cut() -> None:
    assert cut(["xxabc"], ["c", "abc"]) == ("xx", True)


def test_many_long_stops_cost_linear_time() -> None:
    matcher = StopMatcher(StopSet(["a" * 8 + chr(1000 + i) for i in range(1000)]))
    begun = time.perf_counter()
    for _ in range(20_000):
        matcher.push("a" * 5)
    assert time.perf_counter() - begun < 5
