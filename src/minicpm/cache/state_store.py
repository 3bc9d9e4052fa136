"""The recurrent state of one layer: a matrix per head and sequence, and marks to go back to."""

from dataclasses import dataclass, field

from torch import Tensor

from minicpm.cache.pages import PAGE
from minicpm.cache.recent import Recent
from minicpm.config.memory import STATE_MARKS


@dataclass(slots=True)
class _Sequence:
    """States by the length they belong to, ascending; that of `length` is the one to go on from.

    Length 0 has none: nothing was seen. `recent` reaches up to `length`.
    """

    length: int = 0
    states: dict[int, Tensor] = field(default_factory=dict)
    recent: Recent | None = None

    @property
    def marks(self) -> list[int]:
        return [n for n in self.states if n != self.length]

    def reachable(self, n: int) -> int:
        if self.recent is not None and self.recent.start <= n <= self.length:
            return n
        return max((length for length in self.states if length <= n), default=0)

    def first(self, n: int) -> "_Sequence":
        """What is left of it at n, a reachable length."""
        assert self.reachable(n) == n, f"no state of length {n} is held, only {list(self.states)}"
        states = {length: state for length, state in self.states.items() if length <= n}
        if self.recent is None or n < self.recent.start:
            return _Sequence(n, states)
        if n and n not in states:
            states[n] = self.recent.state_at(n)
        return _Sequence(n, states, self.recent if n > self.recent.start else None)


class StateStore:
    """A state [H, dk, dv] float32 per sequence, and as marks the states at page ends it has passed.

    A state cannot be shortened, so a sequence goes back among the tokens that came last (see `remember`),
    to a mark, or to its start. All sequences together keep at most `marks` marks. One too many, and the
    sequence with the most gives up the one that is missed least: the gap it leaves is the smallest, measured
    against how far that gap lies behind its newest mark. So marks are dense near the end, and what must be
    fed again grows with how far one goes back.

    A stored state is never written to, and forks share it. Gradients do not pass through the store.
    """

    def __init__(self, *, marks: int = STATE_MARKS) -> None:
        self._budget = marks
        self._sequences: dict[int, _Sequence] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held, a shared state counted once; none before the first token."""
        held = self._sequences.values()
        recents = [sequence.recent for sequence in held if sequence.recent is not None]
        states = [state for sequence in held for state in sequence.states.values()]
        met = [recent.state for recent in recents if recent.state is not None]
        tensors = [*states, *met, *(tensor for recent in recents for tensor in (recent.k, recent.v))]
        return sum({id(tensor): tensor.nbytes for tensor in tensors}.values())

    def length(self, seq: int) -> int:
        """Tokens the sequence's state has seen."""
        return self._sequences[seq].length

    def marks(self, seq: int) -> list[int]:
        """The page ends to which the sequence can go back, ascending; its start always can be reached."""
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
        leaves_mark = held.length % PAGE == 0
        if not leaves_mark:
            del held.states[held.length]
        held.length += count
        held.states[held.length] = state.detach()
        held.recent = None
        if leaves_mark:
            self._thin()

    def remember(self, seq: int, recent: Recent) -> None:
        """Let the sequence go back among its last tokens, a page of them at most, until it advances again."""
        held = self._sequences[seq]
        assert recent.start + len(recent.k) == held.length, "the recent tokens are not the last ones"
        held.recent = recent

    def opened(self, seq: int) -> None:
        """A new empty sequence."""
        self._sequences[seq] = _Sequence()

    def closed(self, seq: int) -> None:
        """The sequence is gone, and with it all states nobody shares."""
        del self._sequences[seq]

    def reachable(self, seq: int, n: int) -> int:
        """The last mark at or before n; n itself among recent tokens or where the sequence stands."""
        return self._sequences[seq].reachable(n)

    def rewound(self, seq: int, n: int) -> None:
        """The sequence continues at n, a reachable length."""
        self._sequences[seq] = self._sequences[seq].first(n)

    def forked(self, seq: int, copy: int, n: int) -> None:
        """`copy` is new and continues at n, a reachable length of `seq`; states are shared."""
        self._sequences[copy] = self._sequences[seq].first(n)
        self._thin()

    def copy_page(self, source: int, target: int) -> None:
        """Nothing: no page holds anything of this layer."""

    def grow(self, pages: int) -> None:
        """Nothing: states take no pages."""

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
