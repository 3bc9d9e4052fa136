"""Marlin tensors are read as the format's permutation says, and written so that they are read again."""

import pytest
import torch

from minicpm.checkpoint.layouts import marlin
from minicpm.ops.quant_tensor import decode, joined


def permutation():
    """The 1024 places of the format, step by step."""
    order = []
    for i in range(32):
        own = []
        column = i // 4
        for block in (0, 1):
            for row in (2 * (i % 4), 2 * (i % 4) + 1, 2 * (i % 4 + 4), 2 * (i % 4 + 4) + 1):
                own.append(16 * row + column + 8 * block)
        for j in range(4):
            order.extend(place + 256 * j for place in own)
    interleaved = []
    for run in range(0, 1024, 8):
        interleaved.extend(order[run + k] for k in (0, 2, 4, 6, 1, 3, 5, 7))
    return interleaved


def slowly(held, dtype):
    """One element after the other: where each code of each word belongs."""
    groups, outputs = held.scales.shape
    inputs = 16 * len(held.qweight)
    order = permutation()
    codes = [[0] * outputs for _ in range(inputs)]
    for tile_row, words in enumerate(held.qweight.tolist()):
        for place in range(16 * outputs):
            code = (words[place // 8] >> (4 * (place % 8))) & 15
            strip, within = divmod(place, 1024)
            flat = 1024 * strip + order[within]
            tile, inside = divmod(flat, 256)
            codes[16 * tile_row + inside // 16][16 * tile + inside % 16] = code
    if groups > 1:
        places = [i + 8 * j for i in range(8) for j in range(8)]
    else:
        places = [2 * i + j for i in range(4) for j in (0, 1, 8, 9, 16, 17, 24, 25)]
    scales = torch.empty(groups, outputs)
    flat, size = held.scales.float().flatten().tolist(), len(places)
    for place, value in enumerate(flat):
        where = place // size * size + places[place % size]
        scales[where // outputs, where % outputs] = value
    out = torch.empty(outputs, inputs, dtype=dtype)
    for i in range(inputs):
        for o in range(outputs):
            out[o, i] = ((codes[i][o] - 8) * scales[i // (inputs // groups), o]).to(dtype)
    return out


@pytest.mark.parametrize(
    ("outputs", "inputs", "group"), [(64, 64, 32), (192, 16, 16), (64, 128, 128), (128, 48, 16)]
)
def test_tensors_are_read_as_the_format_says(outputs, inputs, group, matrix):
    held = marlin.pack(matrix(outputs, inputs, 4, group))
    assert held.qweight.shape == (inputs // 16, 2 * outputs)
    assert torch.equal(decode(marlin.unpack(held, dtype=torch.bfloat16)), slowly(held, torch.bfloat16))


@pytest.mark.parametrize("group", [32, 128])
def test_packed_and_unpacked_it_is_the_same_to_the_last_bit(group, matrix):
    weight = matrix(320, 128, 4, group)
    found = marlin.unpack(marlin.pack(weight), dtype=torch.bfloat16)
    assert (found.scheme, found.dtype) == (weight.scheme, weight.dtype)
    assert torch.equal(found.codes, weight.codes)
    assert torch.equal(found.scales, weight.scales)


@pytest.mark.parametrize("group", [32, 64])
def test_matrices_side_by_side_are_cut_apart(group, matrix):
    parts = [matrix(outputs, 64, 4, group, seed=outputs) for outputs in (128, 64, 64)]
    held = marlin.pack(joined(parts))
    for part, first in zip(parts, (0, 128, 192), strict=True):
        found = marlin.unpack(held.outputs(first, first + part.shape[0]), dtype=torch.bfloat16)
        assert torch.equal(found.codes, part.codes)
        assert torch.equal(found.scales, part.scales)
