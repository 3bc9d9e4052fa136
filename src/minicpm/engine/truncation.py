"""Cuts the oldest turns of a conversation, and only whole ones, until it fits."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

from minicpm.text.chat import Message


def turns(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """Leading system messages, then the turns: each a user message with all that answers it."""
    start = next(
        (i for i, m in enumerate(messages) if m.get("role") not in ("system", "developer")), len(messages)
    )
    groups: list[list[Message]] = []
    for message in messages[start:]:
        if message.get("role") == "user" or not groups:
            groups.append([])
        groups[-1].append(message)
    return list(messages[:start]), groups


def without_oldest(
    messages: Sequence[Message], length: Callable[[Sequence[Message]], int], room: int
) -> tuple[list[Message], int]:
    """The conversation without its fewest oldest turns such that length(...) <= room, and how many went.

    System messages and the last turn always stay, even when those alone are too long.
    """
    system, groups = turns(messages)

    def kept(dropped: int) -> list[Message]:
        return [*system, *(message for group in groups[dropped:] for message in group)]

    most = max(len(groups) - 1, 0)
    dropped = bisect_left(range(most), True, key=lambda n: length(kept(n)) <= room)
    return kept(dropped), dropped
