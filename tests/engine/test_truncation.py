"""Truncation lets whole oldest turns go, and nothing else."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from minicpm.engine.truncation import turns, without_oldest
from minicpm.text.chat import Message


def message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def size(messages: Sequence[Message]) -> int:
    return sum(len(str(m["content"])) for m in messages)


TALK = [
    message("system", "ssss"),
    message("user", "u1"),
    message("assistant", "a1"),
    message("tool", "t1"),
    message("assistant", "b1"),
    message("user", "u2"),
    message("assistant", "a2"),
    message("user", "u3"),
]


def test_a_turn_is_a_question_with_all_that_answers_it() -> None:
    system, groups = turns(TALK)
    assert system == TALK[:1]
    assert groups == [TALK[1:5], TALK[5:7], TALK[7:]]


def test_as_few_turns_as_possible_go() -> None:
    assert without_oldest(TALK, size, 18) == (TALK, 0)
    assert without_oldest(TALK, size, 17) == (TALK[:1] + TALK[5:], 1)
    assert without_oldest(TALK, size, 9) == (TALK[:1] + TALK[7:], 2)


def test_system_and_last_turn_stay_even_when_they_are_too_long() -> None:
    assert without_oldest(TALK, size, 1) == (TALK[:1] + TALK[7:], 2)
    assert without_oldest(TALK[:1], size, 1) == (TALK[:1], 0)
    assert without_oldest([], size, 1) == ([], 0)


roles = st.sampled_from(["system", "user", "assistant", "tool"])


@settings(deadline=None)
@given(st.lists(st.builds(message, roles, st.text("x", max_size=9)), max_size=12), st.integers(0, 60))
def test_what_stays_is_the_system_text_and_an_end_of_the_conversation(talk: list[Message], room: int) -> None:
    kept, dropped = without_oldest(talk, size, room)
    system, groups = turns(talk)
    assert kept[: len(system)] == system
    assert kept[len(system) :] == [m for group in groups[dropped:] for m in group]
    assert size(kept) <= room or dropped == max(len(groups) - 1, 0)
