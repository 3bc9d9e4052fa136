"""Finds the first stop string in text that arrives piece by piece, in linear time."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple


class StopSet:
    """All stop strings of a request as one read-only automaton (Aho and Corasick, CACM 18(6), 1975)."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.next: list[dict[str, int]] = [{}]
        self.depth = [0]
        self.longest = [0]  # length of the longest stop that ends at this node
        for stop in stops:
            self._add(stop)
        self.fallback = [0] * len(self.next)
        self._link()

    def _add(self, stop: str) -> None:
        node = 0
        for character in stop:
            child = self.next[node].get(character)
            if child is None:
                child = len(self.next)
                self.next[node][character] = child
                self.next.append({})
                self.depth.append(self.depth[node] + 1)
                self.longest.append(0)
            node = child
        self.longest[node] = len(stop)

    def _link(self) -> None:
        queue = deque(self.next[0].values())
        while queue:
            node = queue.popleft()
            for character, child in self.next[node].items():
                self.fallback[child] = self.step(self.fallback[node], character)
                self.longest[child] = self.longest[child] or self.longest[self.fallback[child]]
                queue.append(child)

    def step(self, node: int, character: str) -> int:
        """The node of the longest suffix of the text that begins a stop string."""
        while node and character not in self.next[node]:
            node = self.fallback[node]
        return self.next[node].get(character, 0)


class Cut(NamedTuple):
    """Text that is now certain, and whether a stop string ended it."""

    text: str
    stopped: bool


class StopMatcher:
    """Holds back text that may begin a stop string, until it is certain."""

    def __init__(self, stops: StopSet) -> None:
        self._stops = stops
        self._node = 0
        self._held = ""

    def push(self, text: str) -> Cut:
        """Takes the next piece; after a stop nothing more may be pushed."""
        whole = self._held + text
        for at in range(len(self._held), len(whole)):
            self._node = self._stops.step(self._node, whole[at])
            found = self._stops.longest[self._node]
            if found:
                self._held = ""
                return Cut(whole[: at + 1 - found], True)
        certain = len(whole) - self._stops.depth[self._node]
        self._held = whole[certain:]
        return Cut(whole[:certain], False)

    def finish(self) -> str:
        """What was held back when the text ended without a stop."""
        held, self._held, self._node = self._held, "", 0
        return held
