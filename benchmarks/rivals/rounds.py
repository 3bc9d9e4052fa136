"""Checks that all compute the same, then lets them take turns."""

import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rivals.plan import Row, Shape
from rivals.process import OURS, Broken, Refused, Worker
from rivals.quiet import wait_for_quiet

# Largest difference of logits, as a share of the largest: either side rounds to bf16 in its own places.
TOLERANCE = 0.05
# However long they take.
LEAST_ROUNDS = 2


class Disagreement(Exception):
    """Raised when a rival computes something else than we do, so that its speed says nothing."""


@dataclass(frozen=True, slots=True)
class Check:
    """How far a rival's logits are from ours in bf16, as a share of the largest."""

    shape: str
    weights: str
    rival: str
    difference: float


@dataclass(slots=True)
class Result:
    """Rates of one row, tokens per second by rival, and why some have none."""

    row: Row
    rates: dict[str, list[float]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    bandwidths: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    bytes_per_step: int | None = None

    def median(self, name: str) -> float | None:
        """Of a rival that has rates."""
        return statistics.median(self.rates[name]) if self.rates.get(name) else None

    @property
    def ratios(self) -> dict[str, float]:
        """How many times as fast as each rival we are."""
        ours = self.median(OURS)
        rivals = {name: self.median(name) for name in self.rates if name != OURS}
        return {name: ours / rate for name, rate in rivals.items() if ours and rate}

    @property
    def share_of_limit(self) -> float | None:
        """Of the rate at which memory gives what a decode step must read."""
        ours = self.median(OURS)
        if not (ours and self.bandwidths and self.bytes_per_step):
            return None
        return ours / self.row.batch * self.bytes_per_step / statistics.median(self.bandwidths)


@dataclass(frozen=True, slots=True)
class Contest:
    """The workers and how often they take turns: `repeats` times, or fewer in rows that take long.

    In each row up to `patience` seconds are spent on waiting until other programs are quiet.
    """

    workers: dict[str, Worker]
    repeats: int
    row_seconds: float
    patience: float = 0

    def check(self, shape: Shape, weights: Sequence[str]) -> list[Check]:
        """In bf16 all must agree; in fewer bits logits must be finite. Raises Disagreement."""
        ids = [(7919 * i + 11) % 32000 for i in range(24)]
        wanted = self._logits(OURS, shape, "bf16", ids)
        assert wanted is not None, "we have bf16"
        checks = []
        for format_ in ["bf16", *(w for w in weights if w != "bf16")]:
            for name in self.workers:
                found = self._logits(name, shape, format_, ids)
                if found is not None and (name, format_) != (OURS, "bf16"):
                    checks.append(_compare(shape, format_, name, found, wanted))
        return checks

    def measure(self, row: Row) -> Result:
        """Let all that do this work take turns at it."""
        result = Result(row)
        names = [name for name in (OURS, *row.rivals) if self._open(name, row, result)]
        began, patience = time.monotonic(), self.patience
        for done in range(self.repeats if names else 0):
            if done >= LEAST_ROUNDS and time.monotonic() - began > self.row_seconds:
                break
            patience = self._take_turns(names, result, patience)
        return result

    def _logits(self, name: str, shape: Shape, weights: str, ids: list[int]) -> list[float] | None:
        worker = self.workers[name]
        _say(f"checking {name}, {weights}, {shape.label}")
        try:
            worker.ask("open", raw=shape.raw, weights=weights)
        except Refused:
            return None
        return worker.ask("check", ids=ids)["logits"]

    def _open(self, name: str, row: Row, result: Result) -> bool:
        if name not in self.workers:
            return False
        try:
            sparse = {"sparse": row.sparse} if name == OURS else {}
            self.workers[name].ask("open", raw=row.shape.raw, weights=row.weights, **sparse)
        except Refused as reason:
            result.reasons[name] = str(reason)
        except Broken as reason:
            result.reasons[name] = "failed"
            _say(str(reason))
        return name not in result.reasons

    def _take_turns(self, names: list[str], result: Result, patience: float) -> float:
        """The patience that is left."""
        row = result.row
        if row.work != "prefill":
            result.bandwidths.append(self.workers[OURS].ask("bandwidth")["bytes_per_second"])
        for name in names:
            if name in result.reasons:
                continue
            patience = wait_for_quiet(patience)
            try:
                answer = self.workers[name].ask(**row.request)
            except Broken as reason:
                result.reasons[name] = "failed"
                _say(str(reason))
                continue
            _add(result, name, answer)
        return patience


def _add(result: Result, name: str, answer: dict[str, Any]) -> None:
    rate = answer["tokens"] / answer["seconds"]
    result.rates.setdefault(name, []).append(rate)
    if answer["others"] is not None:
        result.others.append(answer["others"])
    if name == OURS and not result.row.sparse and result.row.work != "prefill":
        result.bytes_per_step = answer["bytes_per_step"]
    _say(f"{result.row.title}: {name} {rate:.2f} tok/s")


def _compare(shape: Shape, weights: str, name: str, found: list[float], wanted: list[float]) -> Check:
    if not all(map(math.isfinite, found)):
        raise Disagreement(
            f"{name} gives logits that are not finite with {weights} weights of {shape.label}."
        )
    largest = max(map(abs, wanted))
    difference = max(abs(a - b) for a, b in zip(found, wanted, strict=True)) / largest
    if weights == "bf16" and difference > TOLERANCE:
        raise Disagreement(
            f"{name} and {OURS} disagree on the same bf16 weights of {shape.label}: logits differ by "
            f"{difference:.1%} of the largest, where {TOLERANCE:.0%} is allowed. No speeds are shown."
        )
    return Check(shape.label, weights, name, difference)


def limits(worker: Worker) -> dict[str, Any]:
    """What the machine gives, measured by us, and how busy others kept it in the last minute."""
    return {
        "load_before": round(os.getloadavg()[0], 2),
        "read_gb_s": round(worker.ask("bandwidth")["bytes_per_second"] / 1e9, 1),
        "bf16_gflop_s": round(worker.ask("arithmetic")["operations_per_second"] / 1e9, 1),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
