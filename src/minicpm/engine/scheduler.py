"""Decides, step by step, which tokens of which sequences are computed next."""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from minicpm.engine.pool import Pool
from minicpm.engine.prefix import Match, PrefixIndex
from minicpm.engine.request import FinishReason, Sequence


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens start .. start + count - 1 of a sequence, to be computed in one step."""

    sequence: Sequence
    start: int
    count: int

    @property
    def samples(self) -> bool:
        """True when all known tokens are then computed, so that the next one can be chosen."""
        return self.start + self.count == len(self.sequence.tokens)


class Plan(NamedTuple):
    """One step: work in order of arrival, decodes before prefill chunks; and who lost their pages for it."""

    works: tuple[Work, ...]
    preempted: tuple[Sequence, ...]


class Scheduler:
    """Continuous batching over a pool of pages: decode first, then prefill chunks into the token budget.

    First come, first served: the head of the line is never overtaken. Room for all known tokens is reserved
    at admission. When a running sequence needs a page, held prefixes go first, then the newest running
    sequence is preempted and recomputed later; the oldest one is never preempted, so it always finishes.
    No more sequences run than the budget has tokens, so every step decodes all that can and advances the
    oldest prefill: a long prompt delays another sequence's next token by one step of max_batch_tokens.
    """

    def __init__(
        self, pool: Pool, prefix: PrefixIndex, *, max_batch_tokens: int = 512, max_sequences: int = 64
    ) -> None:
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self._pool = pool
        self._prefix = prefix
        self._budget = max_batch_tokens
        self._max_running = min(max_sequences, max_batch_tokens)

    @property
    def idle(self) -> bool:
        """True when nobody runs or waits."""
        return not self.waiting and not self.running

    def add(self, sequence: Sequence) -> None:
        """Puts a sequence in line at its place of arrival."""
        insort(self.waiting, sequence, key=lambda s: s.order)

    def plan(self) -> Plan:
        """The next step; empty only when idle. Pages for it are reserved."""
        preempted = tuple(self._secure())
        self._admit()
        plan = Plan(tuple(self._fill()), preempted)
        assert plan.works or self.idle, "an admitted request fits the pool alone, so somebody can advance"
        return plan

    def remove(self, sequence: Sequence, reason: FinishReason) -> None:
        """Ends a sequence in any state; its cached tokens stay reusable unless computing them failed."""
        sequence.finish_reason = reason
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
        handle, sequence.handle = sequence.handle, None
        if handle is None:
            return
        if reason == "error":
            self._pool.close(handle)
        else:
            computed = sequence.identity[: self._pool.length(handle)]
            self._prefix.keep(handle, computed, sequence.adapter)

    def _secure(self) -> Iterator[Sequence]:
        """Makes room for the next token of every running sequence, oldest first; yields the preempted."""
        for sequence in tuple(self.running):
            while sequence.handle is not None and not self._reserve(sequence):
                if not self._prefix.evict():
                    yield self._preempt_newest()

    def _reserve(self, sequence: Sequence) -> bool:
        return self._pool.reserve(_handle(sequence), len(sequence.tokens) - self._computed(sequence))

    def _preempt_newest(self) -> Sequence:
        newest = self.running.pop()
        self._pool.close(_handle(newest))
        newest.handle = None
        self.add(newest)
        return newest

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._max_running and self._open(self.waiting[0]):
            insort(self.running, self.waiting.pop(0), key=lambda s: s.order)

    def _open(self, sequence: Sequence) -> bool:
        """Caches what can be shared, reserves the rest; evicts held prefixes for it, the shared one last."""
        match = self._ancestor(sequence)
        while not self._start(sequence, match):
            if not self._prefix.evict(spare=match.handle if match else None):
                if match is None:
                    return False
                match = None
        return True

    def _ancestor(self, sequence: Sequence) -> Match | None:
        """Where to fork from; nothing when every row of the prompt has to be seen.

        Samples of one request share their prompt even without a prefix cache.
        """
        if sequence.unscored:
            return None
        live = [s for s in self.running if self._prefix.enabled or s.order[0] == sequence.order[0]]
        cached = (
            (_handle(s), s.identity[: self._computed(s)]) for s in live if s.adapter == sequence.adapter
        )
        return self._prefix.match(sequence.identity, cached, sequence.adapter)

    def _start(self, sequence: Sequence, match: Match | None) -> bool:
        """Forks or opens, and reserves room for all known tokens; False and undone if pages are short."""
        handle = self._pool.fork(match.handle, match.shared) if match else self._pool.open()
        reached = self._pool.length(handle)
        if not self._pool.reserve(handle, len(sequence.tokens) - reached):
            self._pool.close(handle)
            return False
        sequence.handle = handle
        if not sequence.generated:
            sequence.cached = reached
        return True

    def _fill(self) -> Iterator[Work]:
        """Decodes, then chunks of prefill while the budget lasts."""
        pending = [(s, self._computed(s)) for s in self.running]
        decodes = [Work(s, start, 1) for s, start in pending if len(s.tokens) - start == 1]
        yield from decodes
        budget = self._budget - len(decodes)
        for sequence, start in pending:
            count = min(len(sequence.tokens) - start, budget)
            if len(sequence.tokens) - start > 1 and count:
                budget -= count
                yield Work(sequence, start, count)

    def _computed(self, sequence: Sequence) -> int:
        return self._pool.length(_handle(sequence))


def _handle(sequence: Sequence) -> int:
    assert sequence.handle is not None, "a running sequence has a handle"
    return sequence.handle
