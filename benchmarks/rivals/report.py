"""Results as a table, as JSON, and as a section of a page."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rivals.process import OURS, PROGRAMS
from rivals.rounds import Check, Result

BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
_NAMES = tuple(program.name for program in PROGRAMS)


def table(results: Sequence[Result]) -> str:
    """A row per result, in Markdown: tokens per second, and how many times as fast we are."""
    head = ["work", "shape", "weights", *_NAMES, "to the best", "of the limit", "others"]
    lines = [head, ["-"] * len(head)] + [_cells(result, results) for result in results]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    lines[1] = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def as_json(result: Result, results: Sequence[Result]) -> dict[str, Any]:
    """One row; a rival without rates is null, and `reasons` may say why."""
    row = result.row
    out: dict[str, Any] = {
        "work": row.work,
        "shape": row.shape.label,
        "weights": row.weights,
        "context": row.context,
        "batch": row.batch,
        "sparse": row.sparse,
    }
    out |= {_key(name): _summary(result.rates.get(name)) for name in _NAMES}
    out["ratios"] = {name: round(ratio, 3) for name, ratio in result.ratios.items()}
    out["ratio_to_best"] = round(min(result.ratios.values()), 3) if result.ratios else None
    if (own := _to_own_int4(result, results)) is not None:
        out["ratio_to_own_int4"] = round(own, 3)
    if result.bandwidths:
        out["read_gb_s"] = _summary([value / 1e9 for value in result.bandwidths])
    if result.others:
        out["others_cores"] = _summary(result.others)
    if result.share_of_limit is not None:
        out["share_of_limit"] = round(result.share_of_limit, 3)
    return out | ({"reasons": result.reasons} if result.reasons else {})


def notes(versions: dict[str, str], limits: dict[str, Any], checks: Iterable[Check], threads: int) -> str:
    """What the table stands on, a line each."""
    lines = [
        f"Threads: {threads}. Versions: " + ", ".join(f"{name} {v}" for name, v in versions.items()) + ".",
        f"Load average before the start: {limits['load_before']}, where 0 is a quiet machine.",
        f"Memory reads at {limits['read_gb_s']} GB/s, bf16 products run at {limits['bf16_gflop_s']} Gflop/s.",
    ]
    lines += [
        f"{c.rival}, {c.weights}, {c.shape}: logits differ from ours in bf16 by "
        f"{c.difference:.2%} of the largest."
        for c in checks
    ]
    lines += [
        "Speeds are tokens per second, the median of all turns with the least and the greatest; "
        "x says how many times as fast we are.",
        "The limit is what the memory's bandwidth allows; "
        "others is how many cores other programs used meanwhile.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def write(path: Path, section: str) -> None:
    """Put a section between the page's markers; raises ValueError when it has none."""
    page = path.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no lines {BEGIN} and {END}; put them where the section belongs.")
    path.write_text(f"{before}{BEGIN}\n{section}\n{END}{after}", encoding="utf-8")


def _cells(result: Result, results: Sequence[Result]) -> list[str]:
    row = result.row
    kinds = [f"{row.batch} streams"] * (row.batch > 1) + ["sparse"] * row.sparse
    share = result.share_of_limit
    return [
        " ".join([row.work, str(row.context), *kinds]),
        row.shape.label,
        row.weights,
        *(_cell(result, name) for name in _NAMES),
        _best(result, results),
        "" if share is None else f"{share:.0%}",
        f"{statistics.median(result.others):.1f}" if result.others else "",
    ]


def _cell(result: Result, name: str) -> str:
    rates = result.rates.get(name)
    if not rates:
        return result.reasons.get(name, "-")
    text = f"{statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})"
    return f"{text}, {result.ratios[name]:.2f} x" if name in result.ratios else text


def _best(result: Result, results: Sequence[Result]) -> str:
    if result.ratios:
        return f"{min(result.ratios.values()):.2f} x"
    own = _to_own_int4(result, results)
    return "-" if own is None else f"{own:.2f} x own int4"


def _to_own_int4(result: Result, results: Sequence[Result]) -> float | None:
    """For ternary weights, which no rival has: how many times as fast as our int4 of the same work."""
    row, ours = result.row, result.median(OURS)
    if row.weights != "ternary" or ours is None:
        return None
    same = (row.work, row.context, row.batch, row.sparse)
    for other in results:
        r, rate = other.row, other.median(OURS)
        if r.weights == "int4" and (r.work, r.context, r.batch, r.sparse) == same and rate:
            return ours / rate
    return None


def _key(name: str) -> str:
    return "ours" if name == OURS else name


def _summary(values: Sequence[float] | None) -> dict[str, float] | None:
    if not values:
        return None
    return {
        "median": round(statistics.median(values), 2),
        "min": round(min(values), 2),
        "max": round(max(values), 2),
    }
