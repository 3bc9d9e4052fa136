"""Random operations on the cache give what plain lists of tokens would.

Every token writes a marker of its own into the store of each layer; after every operation all
sequences are read back through the plan's rows. Free rows are NaN, so that reading one shows.
"""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from minicpm.cache import PAGE, Cache, Segment, TokenStore

LAYERS = 2
HEADS, WIDTH = 2, 3


class Tracked:
    """A cache with markers in it, beside lists of the markers each sequence should hold."""

    def __init__(self, pages: int) -> None:
        self.stores = [
            TokenStore(pages, HEADS, WIDTH, dtype=torch.float64, device=torch.device("cpu"))
            for _ in range(LAYERS)
        ]
        for store in self.stores:
            store.k.fill_(torch.nan)
            store.v.fill_(torch.nan)
        self.cache = Cache(self.stores, pages, device=torch.device("cpu"))
        self.tokens: dict[int, list[int]] = {}
        self._markers = itertools.count(1)

    def open(self) -> int:
        seq = self.cache.open()
        self.tokens[seq] = []
        return seq

    def append(self, *counts: tuple[int, int]) -> bool:
        """Reserve, then write all (seq, count) in one step; False when a reservation failed."""
        reserved = [self.cache.reserve(seq, n) for seq, n in counts]
        if not all(reserved):
            return False
        segments = [Segment(seq, self.cache.length(seq), n) for seq, n in counts]
        plan = self.cache.plan(segments)
        new = [[next(self._markers) for _ in range(n)] for _, n in counts]
        for layer, store in enumerate(self.stores):
            k = marked(list(itertools.chain(*new)), layer)
            store.write(plan.write, k, -k)
        for (seq, _), markers, rows in zip(counts, new, plan.reads, strict=True):
            self.tokens[seq] += markers
            self.check(rows, self.tokens[seq])
        self.cache.commit(segments)
        return True

    def check(self, rows, wanted: list[int]) -> None:
        for layer, store in enumerate(self.stores):
            k, v = store.read(rows)
            assert torch.equal(k, marked(wanted, layer))
            assert torch.equal(v, -marked(wanted, layer))

    def check_all(self) -> None:
        for seq, wanted in self.tokens.items():
            assert self.cache.length(seq) == len(wanted)
            if wanted:
                self.check(self.cache.plan([Segment(seq, len(wanted), 0)]).reads[0], wanted)

    def poison_free_pages(self) -> None:
        """What nobody holds may hold anything."""
        held = {page for entry in self.cache._table.values() for page in entry.pages}
        for page in set(range(self.cache.total_pages)) - held:
            for store in self.stores:
                store.k[page * PAGE : (page + 1) * PAGE] = torch.nan
                store.v[page * PAGE : (page + 1) * PAGE] = torch.nan


def marked(markers: list[int], layer: int) -> torch.Tensor:
    base = torch.tensor(markers, dtype=torch.float64)[:, None, None] + layer / 8
    return base + torch.arange(HEADS * WIDTH, dtype=torch.float64).view(HEADS, WIDTH) / 1024


COUNTS = st.one_of(st.integers(1, 5), st.sampled_from([1, 62, 63, 64, 65, 127, 128, 129, 200]))


class CacheMachine(RuleBasedStateMachine):
    """Pages are few, so reservations fail often."""

    @initialize(pages=st.integers(1, 9))
    def start(self, pages):
        self.t = Tracked(pages)

    def pick(self, data):
        return data.draw(st.sampled_from(sorted(self.t.tokens)))

    @rule()
    @precondition(lambda self: len(self.t.tokens) < 6)
    def open(self):
        assert self.t.open() not in list(self.t.tokens)[:-1]

    @rule(data=st.data())
    @precondition(lambda self: self.t.tokens)
    def close(self, data):
        seq = self.pick(data)
        self.t.cache.close(seq)
        del self.t.tokens[seq]

    @rule(data=st.data(), n=COUNTS)
    @precondition(lambda self: self.t.tokens)
    def append(self, data, n):
        seq = self.pick(data)
        needed, free = self.t.cache.pages_needed(seq, n), self.t.cache.free_pages
        assert self.t.append((seq, n)) == (needed <= free)
        if needed <= free:
            assert self.t.cache.free_pages == free - needed

    @rule(data=st.data(), n=COUNTS, m=COUNTS)
    @precondition(lambda self: len(self.t.tokens) > 1)
    def append_to_two_at_once(self, data, n, m):
        first, second = data.draw(st.permutations(sorted(self.t.tokens)))[:2]
        self.t.append((first, n), (second, m))

    @rule(data=st.data(), n=COUNTS)
    @precondition(lambda self: self.t.tokens)
    def reserve_without_writing(self, data, n):
        seq = self.pick(data)
        free, needed = self.t.cache.free_pages, self.t.cache.pages_needed(seq, n)
        reserved = self.t.cache.reserve(seq, n)
        assert self.t.cache.free_pages == free - needed * reserved
        assert not reserved or self.t.cache.pages_needed(seq, n) == 0

    @rule(data=st.data())
    @precondition(lambda self: self.t.tokens)
    def rewind(self, data):
        seq = self.pick(data)
        n = data.draw(st.integers(0, len(self.t.tokens[seq]) + 3))
        del self.t.tokens[seq][n:]
        assert self.t.cache.rewind(seq, n) == len(self.t.tokens[seq])

    @rule(more=st.integers(0, 3))
    @precondition(lambda self: self.t.cache.total_pages < 12)
    def grow(self, more):
        before, total = self.t.cache.free_pages, self.t.cache.total_pages + more
        self.t.cache.grow(total)
        assert self.t.cache.free_pages == before + more
        assert self.t.cache.total_pages == total

    @rule(data=st.data())
    @precondition(lambda self: 0 < len(self.t.tokens) < 6)
    def fork(self, data):
        seq = self.pick(data)
        n = data.draw(st.integers(0, len(self.t.tokens[seq])))
        free = self.t.cache.free_pages
        self.t.tokens[self.t.cache.fork(seq, n)] = self.t.tokens[seq][:n]
        assert self.t.cache.free_pages == free

    @invariant()
    def every_sequence_holds_its_tokens(self):
        if hasattr(self, "t"):
            self.t.poison_free_pages()
            self.t.check_all()

    @invariant()
    def used_and_free_are_the_total(self):
        if hasattr(self, "t"):
            held = {page for entry in self.t.cache._table.values() for page in entry.pages}
            assert len(held) + self.t.cache.free_pages == self.t.cache.total_pages

    def teardown(self):
        if hasattr(self, "t"):
            for seq in self.t.tokens:
                self.t.cache.close(seq)
            assert self.t.cache.free_pages == self.t.cache.total_pages


TestCacheEqualsTheNaiveModel = CacheMachine.TestCase
TestCacheEqualsTheNaiveModel.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    phases=(
        Phase.explicit,
        Phase.generate,
    ),  # shrinking takes minutes; the fixed cases below are the small ones
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def tracked():
    made = Tracked(8)
    yield made
    made.check_all()
    for seq in made.tokens:
        made.cache.close(seq)
    assert made.cache.free_pages == 8


def fork(tracked, seq, n):
    child = tracked.cache.fork(seq, n)
    tracked.tokens[child] = tracked.tokens[seq][:n]
    return child


def rewind(tracked, seq, n):
    tracked.cache.rewind(seq, n)
    del tracked.tokens[seq][n:]


@pytest.mark.parametrize("shared", [0, 1, 63, 64, 65, 100])
@pytest.mark.parametrize("order", ["parent first", "child first"])
def test_a_fork_and_its_parent_append_without_seeing_each_other(tracked, shared, order):
    parent = tracked.open()
    tracked.append((parent, 100))
    child = fork(tracked, parent, shared)
    for seq in (parent, child) if order == "parent first" else (child, parent):
        assert tracked.append((seq, 30))
        tracked.check_all()


@pytest.mark.parametrize("kept", [0, 1, 63, 64, 65, 99])
@pytest.mark.parametrize("who", ["parent", "child"])
def test_a_fork_survives_the_other_rewinding_and_writing_anew(tracked, kept, who):
    parent = tracked.open()
    tracked.append((parent, 100))
    child = fork(tracked, parent, 100)
    seq = parent if who == "parent" else child
    rewind(tracked, seq, kept)
    assert tracked.append((seq, 70))


def test_room_reserved_before_a_fork_stays_usable_and_does_not_reach_the_child(tracked):
    parent = tracked.open()
    tracked.append((parent, 70))
    assert tracked.cache.reserve(parent, 20)
    child = fork(tracked, parent, 70)
    segments = [Segment(parent, 70, 20)]
    rows = tracked.cache.plan(segments).write
    for layer, store in enumerate(tracked.stores):
        store.write(rows, marked(list(range(900, 920)), layer), -marked(list(range(900, 920)), layer))
    tracked.cache.commit(segments)
    tracked.tokens[parent] += range(900, 920)
    tracked.check_all()
    assert tracked.append((child, 10))


def test_forks_of_forks_share_pages_until_they_write(tracked):
    root = tracked.open()
    tracked.append((root, 64 * 6))
    family = [root]
    for _ in range(10):
        family.append(fork(tracked, family[-1], 64 * 6 - 1))
    assert tracked.cache.free_pages == 2
    assert tracked.append((family[5], 1))
    assert tracked.cache.free_pages == 1


def test_the_last_holder_of_a_page_writes_it_in_place(tracked):
    parent = tracked.open()
    tracked.append((parent, 100))
    child = fork(tracked, parent, 100)
    tracked.cache.close(parent)
    del tracked.tokens[parent]
    assert tracked.cache.pages_needed(child, 28) == 0
    assert tracked.append((child, 28))


def test_a_failed_reservation_changes_nothing(tracked):
    seq, other = tracked.open(), tracked.open()
    tracked.append((seq, 64 * 5), (other, 10))
    assert not tracked.cache.reserve(other, 64 * 3)
    assert tracked.cache.free_pages == 2
    assert tracked.cache.pages_needed(other, 64 * 3) == 3


def test_a_lone_sequence_lies_contiguously_and_is_read_without_copies(tracked):
    seq = tracked.open()
    tracked.append((seq, 300))
    rows = tracked.cache.plan([Segment(seq, 300, 1)]).reads[0]
    assert rows == slice(0, 301)
    assert tracked.stores[0].read(rows)[0].data_ptr() == tracked.stores[0].k.data_ptr()


def test_scattered_pages_are_read_through_an_index(tracked):
    first, second = tracked.open(), tracked.open()
    for _ in range(3):
        assert tracked.append((first, 64), (second, 64))
    rows = tracked.cache.plan([Segment(first, 192, 0)]).reads[0]
    assert isinstance(rows, torch.Tensor)
    assert rows.shape == (192,)


def test_a_segment_must_start_where_its_sequence_ends(tracked):
    seq = tracked.open()
    tracked.append((seq, 3))
    with pytest.raises(AssertionError, match="starts at 2, the sequence holds 3"):
        tracked.cache.plan([Segment(seq, 2, 1)])


def test_writing_without_room_is_noticed(tracked):
    seq = tracked.open()
    with pytest.raises(AssertionError, match="no room was reserved for 65 tokens"):
        tracked.cache.plan([Segment(seq, 0, 65)])


def test_a_segment_of_a_cached_batch_needs_a_sequence(tracked):
    with pytest.raises(AssertionError, match="needs a sequence"):
        tracked.cache.plan([Segment(None, 0, 1)])


def test_more_than_is_held_cannot_be_forked(tracked):
    seq = tracked.open()
    tracked.append((seq, 5))
    with pytest.raises(AssertionError, match="cannot fork 6 tokens of a sequence that holds 5"):
        tracked.cache.fork(seq, 6)


def test_a_closed_handle_is_dead_and_never_given_again(tracked):
    seq = tracked.open()
    tracked.cache.close(seq)
    del tracked.tokens[seq]
    with pytest.raises(KeyError):
        tracked.cache.length(seq)
    assert tracked.open() != seq


def test_nbytes_counts_keys_and_values_of_every_store(tracked):
    assert tracked.cache.nbytes == LAYERS * 2 * 8 * PAGE * HEADS * WIDTH * 8
