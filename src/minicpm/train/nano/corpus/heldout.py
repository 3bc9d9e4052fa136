"""What training may never show, so that exams can ask it: a stable tenth of every kind of value."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from random import Random
from typing import TypeVar

T = TypeVar("T")


def held_out(text: str) -> bool:
    """True for the tenth of all strings that belongs to the exams."""
    return zlib.crc32(text.encode()) % 10 == 0


def held_out_pair(a: int, b: int) -> bool:
    """True for operand pairs of the exams; the order does not matter, or `b + a` would give `a + b` away."""
    low, high = sorted((a, b))
    return high >= 10 and held_out(f"{low},{high}")


def draw(rng: Random, make: Callable[[Random], T], held: bool, key: Callable[[T], str] = str) -> T:
    """A value of `make` from the asked side of the split."""
    while True:
        value = make(rng)
        if held_out(key(value)) == held:
            return value
