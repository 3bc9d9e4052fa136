"""The scheduler against a pool without tensors: it never deadlocks, overtakes, overspends or leaks."""

import subprocess
import sys
from array import array
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from minicpm.cache import Cache, Segment
from minicpm.engine.prefix import PrefixIndex
from minicpm.engine.request import Sequence
from minicpm.engine.sampling import SamplingParams
from minicpm.engine.scheduler import Plan, Scheduler


def pool(pages: int) -> Cache:
    """Pages without anything in them: the accounting of the real cache."""
    return Cache([], pages, device=torch.device("cpu"))


def made(cache: Cache, *, prefix: bool = False, **options: int) -> Scheduler:
    return Scheduler(cache, PrefixIndex(cache, enabled=prefix), **options)


def sequence(number: int, prompt: int, new: int = 4, first: int = 0, **params: Any) -> Sequence:
    tokens = array("i", range(first, first + prompt))
    return Sequence((number, 0), tokens, prompt, SamplingParams(**params), prompt + new, frozenset(), 0)


def compute(cache: Cache, scheduler: Scheduler, plan: Plan) -> list[Sequence]:
    """What runner and engine do: fills the cache, writes a token that depends on all before, ends."""
    segments = []
    for work in plan.works:
        assert work.sequence.handle is not None
        assert work.start == cache.length(work.sequence.handle)
        segments.append(Segment(work.sequence.handle, work.start, work.count))
    cache.plan(segments)  # asserts that room was reserved
    cache.commit(segments)
    ended = []
    for work in plan.works:
        if work.samples:
            tokens = work.sequence.tokens
            tokens.append(sum(tokens) % 5)
            if len(tokens) == work.sequence.limit:
                scheduler.remove(work.sequence, "length")
                ended.append(work.sequence)
    return ended


def drain(cache: Cache, scheduler: Scheduler) -> list[Sequence]:
    ended = []
    while not scheduler.idle:
        ended += compute(cache, scheduler, scheduler.plan())
    return ended


def shape(plan: Plan) -> list[tuple[int, int]]:
    return [(work.sequence.order[0], work.count) for work in plan.works]


def test_decodes_come_first_and_prefill_takes_what_the_budget_leaves() -> None:
    cache = pool(20)
    scheduler = made(cache, max_batch_tokens=16)
    scheduler.add(sequence(1, 10))
    scheduler.add(sequence(2, 40))
    assert shape(scheduler.plan()) == [(1, 10), (2, 6)]
    compute(cache, scheduler, scheduler.plan())
    assert shape(scheduler.plan()) == [(1, 1), (2, 15)]


def test_a_long_prompt_delays_nobody_by_more_than_one_budget() -> None:
    cache = pool(40)
    scheduler = made(cache, max_batch_tokens=32)
    chat = sequence(1, 5, new=50)
    scheduler.add(chat)
    compute(cache, scheduler, scheduler.plan())
    scheduler.add(sequence(2, 1000))
    for written in range(2, 30):
        plan = scheduler.plan()
        assert sum(work.count for work in plan.works) <= 32
        compute(cache, scheduler, plan)
        assert chat.generated == written


def test_no_more_sequences_run_than_the_budget_has_tokens() -> None:
    cache = pool(40)
    scheduler = made(cache, max_batch_tokens=3)
    for number in range(6):
        scheduler.add(sequence(number, 2))
    scheduler.plan()
    assert len(scheduler.running) == 3
    assert [s.order[0] for s in drain(cache, scheduler)] == list(range(6))


def test_the_head_of_the_line_is_not_overtaken() -> None:
    cache = pool(3)
    scheduler = made(cache)
    scheduler.add(sequence(1, 70))
    scheduler.add(sequence(2, 120))
    scheduler.add(sequence(3, 5))
    assert shape(scheduler.plan()) == [(1, 70)]
    assert [s.order[0] for s in drain(cache, scheduler)] == [1, 2, 3]


def test_the_newest_is_preempted_and_recomputed_when_pages_run_out() -> None:
    cache = pool(2)
    scheduler = made(cache)
    old, new = sequence(1, 62, new=20), sequence(2, 60, new=20)
    scheduler.add(old)
    scheduler.add(new)
    preempted: list[Sequence] = []
    while not old.finished:
        plan = scheduler.plan()
        preempted += plan.preempted
        compute(cache, scheduler, plan)
    assert preempted == [new]
    assert not new.finished
    drain(cache, scheduler)
    assert new.generated == 20
    assert cache.free_pages == cache.total_pages


def test_held_prefixes_go_before_anybody_is_preempted() -> None:
    cache = pool(4)
    prefix = PrefixIndex(cache)
    scheduler = Scheduler(cache, prefix)
    scheduler.add(sequence(1, 60, first=1000))
    drain(cache, scheduler)
    assert len(prefix) == 1
    scheduler.add(sequence(2, 60, new=20, first=2000))
    scheduler.add(sequence(3, 60, new=20, first=3000))
    preempted: list[Sequence] = []
    while len(prefix):
        plan = scheduler.plan()
        preempted += plan.preempted
        compute(cache, scheduler, plan)
    assert not preempted
    drain(cache, scheduler)


def test_a_shared_prefix_is_not_computed_again() -> None:
    cache = pool(10)
    scheduler = made(cache, prefix=True)
    scheduler.add(sequence(1, 100, new=1))
    drain(cache, scheduler)
    again = sequence(2, 100, new=1)
    scheduler.add(again)
    assert shape(scheduler.plan()) == [(2, 1)]
    assert again.cached == 99
    drain(cache, scheduler)


def test_a_prompt_to_be_scored_is_computed_whole() -> None:
    cache = pool(10)
    scheduler = made(cache, prefix=True)
    scheduler.add(sequence(1, 100, new=1))
    drain(cache, scheduler)
    scheduler.add(sequence(2, 100, new=1, prompt_logprobs=0))
    assert shape(scheduler.plan()) == [(2, 100)]
    drain(cache, scheduler)


def test_scheduling_needs_no_torch() -> None:
    code = "import sys, minicpm.engine.scheduler; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Traffic(RuleBasedStateMachine):
    """Random arrivals, steps and aborts; the naive model is a list of who must still be served."""

    @initialize(
        pages=st.integers(4, 12), budget=st.integers(1, 70), most=st.integers(1, 6), prefix=st.booleans()
    )
    def start(self, pages: int, budget: int, most: int, prefix: bool) -> None:
        self.cache = pool(pages)
        self.prefix = PrefixIndex(self.cache, enabled=prefix, max_holders=3)
        self.scheduler = Scheduler(self.cache, self.prefix, max_batch_tokens=budget, max_sequences=most)
        self.budget, self.most, self.number = budget, most, 0
        self.unfinished: list[Sequence] = []

    @rule(prompt=st.integers(1, 200), new=st.integers(1, 50), first=st.sampled_from([0, 0, 1000]))
    def arrive(self, prompt: int, new: int, first: int) -> None:
        self.number += 1
        arrival = sequence(self.number, prompt, new, first)
        self.scheduler.add(arrival)
        self.unfinished.append(arrival)

    @precondition(lambda self: self.unfinished)
    @rule(times=st.integers(1, 40))
    def steps(self, times: int) -> None:
        for _ in range(times):
            self._step()

    @precondition(lambda self: self.unfinished)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.unfinished))
        self.scheduler.remove(gone, "abort")
        self.unfinished.remove(gone)

    @invariant()
    def nobody_is_lost(self) -> None:
        if hasattr(self, "scheduler"):
            held = self.scheduler.running + self.scheduler.waiting
            assert sorted(s.order for s in held) == [s.order for s in self.unfinished]
            assert all((s.handle is None) == (s in self.scheduler.waiting) for s in held)

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        while self.unfinished:
            self._step()
        self.prefix.clear()
        assert self.cache.free_pages == self.cache.total_pages

    def _step(self) -> None:
        if not self.unfinished:
            return
        oldest = self.unfinished[0]
        before = (
            len(oldest.tokens) - (self.cache.length(oldest.handle) if oldest.handle else 0),
            oldest.generated,
        )
        plan = self.scheduler.plan()
        counts = [work.count for work in plan.works]
        assert sum(counts) <= self.budget
        assert len(counts) <= self.most
        ended = compute(self.cache, self.scheduler, plan)
        self.unfinished = [s for s in self.unfinished if s not in ended]
        left = (
            len(oldest.tokens) - (self.cache.length(oldest.handle) if oldest.handle else 0),
            oldest.generated,
        )
        assert oldest.finished or left != before, "the oldest advances in every step"


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
