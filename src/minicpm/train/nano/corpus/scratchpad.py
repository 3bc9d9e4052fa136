"""Column arithmetic written out from the right, one digit of work at a time.

Only single digits are ever combined, so no thought shows an operand pair that is held out.
"""

from __future__ import annotations


def _columns(a: int, b: int) -> list[tuple[int, int]]:
    width = max(len(str(a)), len(str(b)))
    left, right = str(a).zfill(width), str(b).zfill(width)
    return [(int(x), int(y)) for x, y in zip(reversed(left), reversed(right), strict=True)]


def add(a: int, b: int) -> str:
    """`17 + 25` -> `7+5=12, 2 carry 1; 1+2+1=4; 42.`"""
    steps, carry, columns = [], 0, _columns(a, b)
    for place, (x, y) in enumerate(columns):
        total = x + y + carry
        step = f"{x}+{y}+1={total}" if carry else f"{x}+{y}={total}"
        carry = total // 10
        steps.append(f"{step}, {total % 10} carry 1" if carry and place + 1 < len(columns) else step)
    return "; ".join([*steps, f"{a + b}."])


def subtract(a: int, b: int) -> str:
    """`42 - 17` -> `2-7=5 borrow 1; 4-1-1=2; 25.`; a negative result swaps first and says so."""
    if a < b:
        return f"{a}<{b}, so {b}-{a}: {subtract(b, a)[:-1]}; -{b - a}."
    steps, borrow = [], 0
    for x, y in _columns(a, b):
        value = x - y - borrow
        step = f"{x}-{y}-1={value % 10}" if borrow else f"{x}-{y}={value % 10}"
        borrow = int(value < 0)
        steps.append(f"{step} borrow 1" if borrow else step)
    return "; ".join([*steps, f"{a - b}."])


def multiply(a: int, b: int) -> str:
    """`23 × 4` -> `3×4=12, 2 carry 1; 2×4+1=9; 92.`; one operand has one digit."""
    long, short = max(a, b), min(a, b)
    steps, carry, reversed_digits = [], 0, str(long)[::-1]
    for place, digit in enumerate(reversed_digits):
        total = int(digit) * short + carry
        step = f"{digit}×{short}+{carry}={total}" if carry else f"{digit}×{short}={total}"
        carry = total // 10
        steps.append(f"{step}, {total % 10} carry {carry}" if carry and place + 1 < len(str(long)) else step)
    return "; ".join([*steps, f"{a * b}."])


def compare(a: int, b: int) -> str:
    """Which of two different numbers is larger, by length and then by the first digit that differs."""
    x, y, larger = str(a), str(b), max(a, b)
    if len(x) != len(y):
        return f"{len(x)} and {len(y)} digits; {larger}."
    first = next(place for place in range(len(x)) if x[place] != y[place])
    sign = "<" if x[first] < y[first] else ">"
    return f"{x[first]}{sign}{y[first]}; {larger}."
