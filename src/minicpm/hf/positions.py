"""Reads sequences out of transformers' position_ids."""

from itertools import pairwise

from torch import Tensor

from minicpm.errors import BadParameter
from minicpm.hf.packing import Packing


def runs(
    position_ids: Tensor | None, packing: Packing, *, lengths: list[int], columns: int
) -> list[list[int]]:
    """Per row, how many tokens each of its sequences has in this batch.

    A row that continues a cached sequence of `lengths[row]` tokens, out of `columns` with its padding, is one
    sequence. A fresh row begins a new one at every position 0. In between positions rise by one: an attention
    that rotates sees only their differences. Anything else raises BadParameter.
    """
    if position_ids is None:
        return [[count] for count in packing.counts]
    shape = packing.real.shape
    if tuple(position_ids.shape) not in ((1, shape[1]), tuple(shape)):
        raise BadParameter(
            f"position_ids has the shape {list(position_ids.shape)}, where {list(shape)} is needed, or one "
            "row for all."
        )
    packed = packing.pack(position_ids.expand(shape).to(packing.real.device)).tolist()
    firsts = packing.real.int().argmax(dim=1).tolist()
    found, begin = [], 0
    for row, count in enumerate(packing.counts):
        positions = packed[begin : begin + count]
        begin += count
        if columns and positions:
            _require_continuation(row, positions[0], (lengths[row], columns + firsts[row]))
        found.append(_split(row, positions, fresh=not columns))
    return found


def _split(row: int, positions: list[int], *, fresh: bool) -> list[int]:
    starts = [0]
    for index, (before, after) in enumerate(pairwise(positions), start=1):
        if after == 0 and fresh:
            starts.append(index)
        elif after != before + 1:
            raise BadParameter(
                f"position_ids of row {row} go from {before} to {after}; they must rise by one, or start a "
                "new sequence at 0 where nothing is cached. Leave them out to count each row from 0."
            )
    return [stop - start for start, stop in pairwise([*starts, len(positions)])]


def _require_continuation(row: int, first: int, allowed: tuple[int, int]) -> None:
    if first not in allowed:
        raise BadParameter(
            f"position_ids of row {row} start at {first}, but the cache holds {allowed[0]} tokens of that "
            "row. Leave them out to go on counting."
        )
