"""The recurrent state of one layer: a matrix per head and sequence, and marks to go back to."""

from dataclasses import dataclass, field

from torch import Tensor

from minicpm.cache.pages import PAGE
from minicpm.config.memory import STATE_MARKS


@dataclass(slots=True)
class _Sequence:
    """States by the length they belong to, ascending; that of `length` is the one to go on from.

    Length 0 has none: nothing was seen.
    """

    length: int = 0
    states: dict[int, Tensor] = field(default_factory=dict)

    @property
    def marks(self) -> list[int]:
        return [n for n in self.states if n != self.length]


class StateStore:
    """A state [H, dk, dv] float32 per sequence, and as marks the states at page ends it has passed.

    A state cannot be shortened, so a sequence goes back to a mark or to its start. All sequences together
    keep at most `marks` marks. One too many, and the sequence with the most gives up the one that is missed
    least: the gap it leaves is the smallest, measured against how far that gap lies behind its newest mark.
    So marks are dense near the end, and what must be fed again grows with how far one goes back.

    A stored state is never written to, and forks share it. Gradients do not pass through the store.
    """

    def __init__(self, *, marks: int = STATE_MARKS) -> None:
        self._budget = marks
        self._sequences: dict[int, _Sequence] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held, a shared state counted once; none before the first token."""
        distinct = {id(s): s.nbytes for held in self._sequences.values() for s in held.states.values()}
        return sum(distinct.values())

    def length(self, seq: int) -> int:
        """Tokens the sequence's state has seen."""
        return self._sequences[seq].length

    def marks(self, seq: int) -> list[int]:
        """Lengths to which the sequence can go back, ascending; its start always can be reached."""
        return self._sequences[seq].marks

    def state(self, seq: int) -> Tensor | None:
        """The state to go on from, not to be written to; None at the start of a sequence."""
        held = self._sequences[seq]
        return held.states.get(held.length)

    def pieces(self, seq: int, count: int) -> list[int]:
        """`count` further tokens of a sequence cut at page ends, where `advance` has to see their state."""
        first = min(-self.length(seq) % PAGE, count)
        whole, last = divmod(count - first, PAGE)
        return [n for n in (first, *[PAGE] * whole, last) if n]

    def advance(self, seq: int, count: int, state: Tensor) -> None:
        """`state` has seen `count` more tokens, none of them beyond the next page end."""
        held = self._sequences[seq]
        assert 0 < count <= PAGE - held.length % PAGE, f"{count} tokens from {held.length} pass a page end"
        if held.length % PAGE:
            del held.states[held.length]
        held.length += count
        held.states[held.length] = state.detach()
        self._thin()

    def opened(self, seq: int) -> None:
        """A new empty sequence."""
        self._sequences[seq] = _Sequence()

    def closed(self, seq: int) -> None:
        """The sequence is gone, and with it all states nobody shares."""
        del self._sequences[seq]

    def reachable(self, seq: int, n: int) -> int:
        """The last mark at or before n, or n itself where the sequence stands there."""
        return max((length for length in self._sequences[seq].states if length <= n), default=0)

    def rewound(self, seq: int, n: int) -> None:
        """The sequence continues at n, a reachable length."""
        self._sequences[seq] = self._first(seq, n)

    def forked(self, seq: int, copy: int, n: int) -> None:
        """`copy` is new and continues at n, a reachable length of `seq`; states are shared."""
        self._sequences[copy] = self._first(seq, n)
        self._thin()

    def copy_page(self, source: int, target: int) -> None:
        """Nothing: no page holds anything of this layer."""

    def grow(self, pages: int) -> None:
        """Nothing: states take no pages."""

    def _first(self, seq: int, n: int) -> _Sequence:
        states = {length: s for length, s in self._sequences[seq].states.items() if length <= n}
        assert n == 0 or n in states, f"no state of length {n} is held, only {list(states)}"
        return _Sequence(n, states)

    def _thin(self) -> None:
        while sum(len(held.marks) for held in self._sequences.values()) > self._budget:
            fullest = max(self._sequences.values(), key=lambda held: len(held.marks))
            del fullest.states[_least_missed(fullest.marks)]


def _least_missed(marks: list[int]) -> int:
    """The mark whose gap, over how far that gap lies behind the newest mark, is the smallest."""
    newest = marks[-1]
    costs = {
        mark: (after - before) / (newest - after + PAGE)
        for before, mark, after in zip([0, *marks], marks, marks[1:], strict=False)
    }
    return min(costs, key=costs.__getitem__, default=newest)
