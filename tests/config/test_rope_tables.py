"""The published factor lists pass their checksums, and the 128K lists continue the native ones."""

import math

import pytest

from minicpm.config import rope_tables as tables

# lo, A and w of lo + A / (1 + exp(-(i - (n - 1) / 2) / w)), the largest error, and f[i] + f[n - 1 - i].
# The small list was stored in float32, hence its wider tolerance.
LOGISTIC = {
    "MINICPM3": (16, 1.0, 16.0, 1.34, 2e-14, 18.0),
    "MINICPM4_SMALL": (32, 0.85382344, 49.14617665, 2.667, 5e-6, 50.85382),
    "MINICPM4_8B": (64, 0.9157734670477345, 30.190175865146276, 5.334, 2e-14, 32.02172279924174),
    "MINICPM41_8B": (64, 0.8288299491615251, 62.34913451640336, 5.334, 2e-14, 64.00679441472641),
}


def logistic(count, low, height, width):
    return [low + height / (1 + math.exp(-(i - (count - 1) / 2) / width)) for i in range(count)]


@pytest.mark.parametrize("name", LOGISTIC)
def test_a_native_list_lies_on_its_logistic_curve(name):
    count, low, height, width, tolerance, _ = LOGISTIC[name]
    table = getattr(tables, name)
    assert len(table) == count
    errors = [abs(a - b) for a, b in zip(table, logistic(count, low, height, width), strict=True)]
    assert max(errors) < tolerance, f"entry {errors.index(max(errors))} is off by {max(errors):.1e}"


@pytest.mark.parametrize("name", LOGISTIC)
def test_opposite_entries_of_a_native_list_have_one_sum(name):
    *_, tolerance, total = LOGISTIC[name]
    table = getattr(tables, name)
    sums = [a + b for a, b in zip(table, reversed(table), strict=True)]
    assert sums == pytest.approx([total] * len(table), abs=2 * tolerance)


@pytest.mark.parametrize(
    ("native", "extended", "factor"),
    [
        (tables.MINICPM4_8B, tables.MINICPM4_8B_128K, 4),
        (tables.MINICPM41_8B, tables.MINICPM41_8B_128K, 2),
    ],
    ids=["MiniCPM4-8B", "MiniCPM4.1-8B"],
)
def test_a_128k_list_keeps_the_fast_frequencies_and_stretches_the_slow_ones(native, extended, factor):
    assert len(extended) == len(native)
    assert extended[:21] == native[:21]
    assert extended[46:] == pytest.approx([factor * x for x in native[46:]], rel=2e-15)
    assert all(a < b < factor * a for a, b in zip(native[21:46], extended[21:46], strict=True))


@pytest.mark.parametrize("name", [*LOGISTIC, "MINICPM4_8B_128K", "MINICPM41_8B_128K"])
def test_every_list_grows_from_about_one(name):
    table = getattr(tables, name)
    assert list(table) == sorted(table)
    # Where a list has fewer entries its first one lies further up the curve.
    assert table[0] == pytest.approx(1, abs=0.06 if len(table) == 16 else 0.003)
