"""Random operations on the store of recurrent states give what plain lists of tokens would.

A state here is the sum of all tokens seen, exact in float32 and what the recurrence gives without decay, so
that a state of other tokens or of another length shows.
"""

import gc
import itertools
import weakref
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from minicpm.cache import PAGE, Cache, Recent, Segment, SequenceStore, StateStore, TokenStore
from minicpm.config.memory import STATE_MARKS

UNLIMITED = 10**6
STATE_BYTES = 4


def state_of(tokens) -> torch.Tensor:
    return torch.full((1, 1, 1), float(sum(tokens)))


def recent_of(start, state, tokens) -> Recent:
    v = torch.tensor(tokens, dtype=torch.float32).view(-1, 1, 1)
    return Recent(start, state, torch.ones_like(v), v, torch.zeros(1))


@dataclass
class Known:
    """What a sequence should hold: numbered states by length; recent tokens (start, state, number, count)."""

    tokens: list[int] = field(default_factory=list)
    states: dict[int, int] = field(default_factory=dict)
    recent: tuple[int, int | None, int, int] | None = None

    def reachable(self, n: int) -> int:
        if self.recent and self.recent[0] <= n <= len(self.tokens):
            return n
        return max((length for length in self.states if length <= n), default=0)

    def first(self, n: int, fresh: int) -> "Known":
        states = {length: number for length, number in self.states.items() if length <= n}
        if n and n not in states:
            states[n] = self.recent[1] if n == self.recent[0] else fresh
        return Known(self.tokens[:n], states, self.recent if self.recent and n > self.recent[0] else None)


class Tracked:
    """A store beside what each of its sequences should hold."""

    def __init__(self, marks: int) -> None:
        self.store = StateStore(marks=marks)
        self.budget = marks
        self.known: dict[int, Known] = {}
        self._tokens = itertools.cycle(range(1, 251))
        self._numbers = itertools.count()
        self._handles = itertools.count(1)

    def open(self) -> int:
        seq = next(self._handles)
        self.store.opened(seq)
        self.known[seq] = Known()
        return seq

    def close(self, seq: int) -> None:
        self.store.closed(seq)
        del self.known[seq]

    def append(self, seq: int, count: int, *, remember: bool = False) -> None:
        known, start, met = self.known[seq], len(self.known[seq].tokens), self.store.state(seq)
        number = known.states.get(start)
        for piece in self.store.pieces(seq, count):
            old = len(known.tokens)
            known.tokens += [next(self._tokens) for _ in range(piece)]
            self.store.advance(seq, piece, state_of(known.tokens))
            if old % PAGE:
                del known.states[old]
            known.states[old + piece] = next(self._numbers)
            known.recent = None
            self.notice_thinning()
        if remember:
            self.store.remember(seq, recent_of(start, met, known.tokens[start:]))
            known.recent = (start, number, next(self._numbers), count)

    def rewind(self, seq: int, n: int) -> int:
        reached = self.store.reachable(seq, n)
        self.store.rewound(seq, reached)
        self.known[seq] = self.known[seq].first(reached, next(self._numbers))
        return reached

    def fork(self, seq: int, n: int) -> int:
        reached, copy = self.store.reachable(seq, n), self.open()
        self.store.forked(seq, copy, reached)
        self.known[copy] = self.known[seq].first(reached, next(self._numbers))
        self.notice_thinning()
        return copy

    def notice_thinning(self) -> None:
        """Marks disappear only for the budget, and no more of them than it asks for."""
        for seq, known in self.known.items():
            kept = set(self.store.marks(seq))
            assert kept <= set(known.states)
            gone = set(known.states) - kept - {len(known.tokens)}
            assert not gone or self.total_marks() == self.budget
            for length in gone:
                del known.states[length]

    def total_marks(self) -> int:
        return sum(len(self.store.marks(seq)) for seq in self.known)

    def check(self) -> None:
        assert self.total_marks() <= self.budget
        for seq, known in self.known.items():
            length = len(known.tokens)
            assert self.store.length(seq) == length
            state = self.store.state(seq)
            assert (state is None) == (not known.tokens)
            assert state is None or torch.equal(state, state_of(known.tokens))
            for n in {0, 1, 63, 64, 65, length - 1, length, length + 5}:
                assert self.store.reachable(seq, n) == known.reachable(n)
        assert self.store.nbytes == self.known_bytes()

    def known_bytes(self) -> int:
        recents = {known.recent for known in self.known.values() if known.recent}
        states = {number for known in self.known.values() for number in known.states.values()}
        states |= {number for _, number, _, _ in recents if number is not None}
        return STATE_BYTES * len(states) + sum(2 * STATE_BYTES * count for _, _, _, count in recents)


COUNTS = st.one_of(st.integers(1, 5), st.sampled_from([1, 62, 63, 64, 65, 127, 128, 129, 400]))


class StateMachine(RuleBasedStateMachine):
    """With few marks thinning is frequent; without a limit the model is exact."""

    @initialize(marks=st.sampled_from([0, 1, 3, 8, UNLIMITED]))
    def start(self, marks):
        self.t = Tracked(marks)

    def pick(self, data):
        return data.draw(st.sampled_from(sorted(self.t.known)))

    @rule()
    @precondition(lambda self: len(self.t.known) < 5)
    def open(self):
        self.t.open()

    @rule(data=st.data())
    @precondition(lambda self: self.t.known)
    def close(self, data):
        self.t.close(self.pick(data))

    @rule(data=st.data(), n=COUNTS, remember=st.booleans())
    @precondition(lambda self: self.t.known)
    def append(self, data, n, remember):
        self.t.append(self.pick(data), n, remember=remember)

    @rule(data=st.data())
    @precondition(lambda self: self.t.known)
    def rewind(self, data):
        seq = self.pick(data)
        n = data.draw(st.integers(0, len(self.t.known[seq].tokens)))
        page_end = n // PAGE * PAGE
        reached = self.t.rewind(seq, n)
        assert reached <= n
        assert self.t.budget < UNLIMITED or reached in (n, page_end), "without a limit every page end is held"

    @rule(data=st.data())
    @precondition(lambda self: 0 < len(self.t.known) < 5)
    def fork(self, data):
        seq = self.pick(data)
        self.t.fork(seq, data.draw(st.integers(0, len(self.t.known[seq].tokens))))

    @invariant()
    def the_store_holds_what_the_model_says(self):
        if hasattr(self, "t"):
            self.t.check()

    def teardown(self):
        if hasattr(self, "t"):
            for seq in list(self.t.known):
                self.t.close(seq)
            assert self.t.store.nbytes == 0


TestStoreEqualsTheNaiveModel = StateMachine.TestCase
TestStoreEqualsTheNaiveModel.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def tracked():
    made = Tracked(UNLIMITED)
    yield made
    made.check()


def test_it_is_a_store_with_something_per_sequence():
    assert isinstance(StateStore(), SequenceStore)


def test_pieces_end_at_page_ends():
    store = StateStore()
    store.opened(1)
    assert store.pieces(1, 0) == []
    assert store.pieces(1, 63) == [63]
    assert store.pieces(1, 64) == [64]
    assert store.pieces(1, 200) == [64, 64, 64, 8]
    store.advance(1, 60, state_of([1]))
    assert store.pieces(1, 3) == [3]
    assert store.pieces(1, 4) == [4]
    assert store.pieces(1, 70) == [4, 64, 2]


def test_a_page_end_may_not_be_passed_over():
    store = StateStore()
    store.opened(1)
    store.advance(1, 60, state_of([1]))
    with pytest.raises(AssertionError, match="5 tokens from 60 pass a page end"):
        store.advance(1, 5, state_of([1]))


def test_a_sequence_goes_back_to_its_last_page_end_or_to_where_it_stands(tracked):
    seq = tracked.open()
    tracked.append(seq, 150)
    for n, reached in {0: 0, 63: 0, 64: 64, 127: 64, 128: 128, 149: 128, 150: 150}.items():
        assert tracked.store.reachable(seq, n) == reached


def test_a_sequence_goes_back_among_its_recent_tokens_until_it_advances(tracked):
    seq = tracked.open()
    tracked.append(seq, 100)
    tracked.append(seq, 40, remember=True)
    for n, reached in {99: 64, 100: 100, 101: 101, 128: 128, 139: 139, 140: 140}.items():
        assert tracked.store.reachable(seq, n) == reached
    assert tracked.rewind(seq, 120) == 120
    tracked.check()
    assert [tracked.store.reachable(seq, n) for n in (101, 119, 120, 121)] == [101, 119, 120, 120]
    copy = tracked.fork(seq, 110)
    assert tracked.rewind(copy, 105) == 105
    tracked.append(copy, 1)
    assert tracked.store.reachable(copy, 105) == 64
    tracked.append(seq, 30)
    assert tracked.store.reachable(seq, 120) == 64


def test_recent_tokens_reach_back_to_the_start_of_a_sequence(tracked):
    seq = tracked.open()
    tracked.append(seq, 10, remember=True)
    assert tracked.rewind(seq, 1) == 1
    tracked.check()
    assert tracked.rewind(seq, 0) == 0


def test_recent_tokens_must_be_the_last_ones():
    store = StateStore()
    store.opened(1)
    store.advance(1, 5, state_of([1]))
    with pytest.raises(AssertionError, match="not the last ones"):
        store.remember(1, recent_of(0, None, [1, 2, 3]))


def test_only_reachable_lengths_can_be_gone_back_to(tracked):
    seq = tracked.open()
    tracked.append(seq, 150)
    with pytest.raises(AssertionError, match=r"no state of length 100 is held, only \[64, 128, 150\]"):
        tracked.store.rewound(seq, 100)


def test_forks_share_states_and_go_on_alone(tracked):
    seq = tracked.open()
    tracked.append(seq, 150)
    before = tracked.store.nbytes
    first, second = tracked.fork(seq, 150), tracked.fork(seq, 130)
    assert tracked.store.nbytes == before
    tracked.append(first, 10)
    tracked.append(second, 80)
    tracked.check()
    tracked.rewind(first, 64)
    tracked.append(seq, 3)


def test_closing_frees_what_nobody_shares(tracked):
    seq = tracked.open()
    tracked.append(seq, 150)
    copy = tracked.fork(seq, 128)
    shared, own = weakref.ref(tracked.store.state(copy)), weakref.ref(tracked.store.state(seq))
    tracked.close(seq)
    gc.collect()
    assert own() is None
    assert shared() is not None
    tracked.close(copy)
    gc.collect()
    assert shared() is None


def test_an_open_sequence_without_tokens_takes_nothing(tracked):
    seq = tracked.open()
    assert tracked.store.nbytes == 0
    assert tracked.store.state(seq) is None


@pytest.mark.parametrize("marks", [1, 4, 16])
def test_no_more_marks_than_the_budget_and_the_newest_among_them(marks):
    tracked = Tracked(marks)
    seq = tracked.open()
    tracked.append(seq, 40 * PAGE + 1)
    assert len(tracked.store.marks(seq)) == marks
    assert tracked.store.marks(seq)[-1] == 40 * PAGE


def test_what_is_fed_again_is_at_most_twice_how_far_one_goes_back():
    """With the default budget, for every length of a sequence of up to 1000 pages."""
    store = StateStore()
    store.opened(1)
    for page in range(1, 1001):
        store.advance(1, PAGE, torch.zeros(1))
        bounds = [0, *store.marks(1), page * PAGE]
        for before, after in itertools.pairwise(bounds):
            again, back = after - before - 1, page * PAGE - (after - 1)
            assert again <= 2 * (back + PAGE), f"{again} tokens again to go back {back} of {page} pages"
    assert len(store.marks(1)) == STATE_MARKS


def test_marks_do_not_depend_on_how_the_tokens_came(tracked):
    kept = []
    for counts in ([3000], [1] * 3000, [64] * 46 + [56], [100, 1, 1, 2898]):
        tracked = Tracked(6)
        seq = tracked.open()
        for count in counts:
            tracked.append(seq, count)
        kept.append(tracked.store.marks(seq))
    assert kept[1:] == kept[:-1]


def test_the_sequence_with_the_most_marks_gives_one_up():
    tracked = Tracked(8)
    long, short = tracked.open(), tracked.open()
    tracked.append(long, 9 * PAGE)
    assert len(tracked.store.marks(long)) == 8
    tracked.append(short, 3 * PAGE)
    assert (len(tracked.store.marks(long)), len(tracked.store.marks(short))) == (6, 2)


def test_gradients_end_at_the_store():
    store = StateStore()
    store.opened(1)
    store.advance(1, 1, torch.ones(2, requires_grad=True))
    assert not store.state(1).requires_grad


def extend(cache, seq, count):
    """What a forward does: reserve, plan, advance every layer of states, commit."""
    assert cache.reserve(seq, count)
    segments = [Segment(seq, cache.length(seq), count)]
    cache.plan(segments)
    for store in cache.stores:
        if isinstance(store, StateStore):
            for piece in store.pieces(seq, count):
                store.advance(seq, piece, torch.zeros(1))
    cache.commit(segments)


def test_a_cache_gives_back_what_all_its_stores_can():
    device = torch.device("cpu")
    tokens = TokenStore(8, 1, 2, dtype=torch.float32, device=device)
    cache = Cache([tokens, StateStore(), StateStore(marks=2)], 8, device=device)
    seq = cache.open()
    extend(cache, seq, 300)
    copy = cache.fork(seq, 299)
    assert cache.length(copy) == 256
    extend(cache, copy, 10)
    assert cache.rewind(copy, 266) == 266
    assert cache.rewind(seq, 266) == 256
    assert cache.rewind(seq, 200) == 0, "each sequence has one mark left in the last store"
    extend(cache, seq, 100)
    for handle in (seq, copy):
        cache.close(handle)
    assert cache.free_pages == 8
    assert cache.nbytes == tokens.nbytes
