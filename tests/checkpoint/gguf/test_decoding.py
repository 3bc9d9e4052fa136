"""Blocks decode to the bits of the format's own dequantizer, and as codes to the same bits again."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from minicpm.checkpoint.gguf.decoding import codes_of, decode_blocks, read_rows
from minicpm.checkpoint.gguf.layouts import LAYOUTS
from minicpm.checkpoint.gguf.reading import GgufTensor
from minicpm.checkpoint.gguf.types import BLOCK_TYPES, by_name
from minicpm.errors import TruncatedFile
from minicpm.ops.quant_tensor import decode

TYPES = [type.name for type in BLOCK_TYPES.values()]
# Bits of the codes, weights per scale, dtype of the scales, and whether there are offsets.
GRIDS = {
    "Q8_0": (8, 32, torch.float16, False),
    "Q4_0": (4, 32, torch.float16, False),
    "Q4_1": (4, 32, torch.float16, True),
    "Q5_0": (8, 32, torch.float16, False),
    "Q5_1": (8, 32, torch.float16, True),
    "Q2_K": (2, 16, torch.float32, True),
    "Q3_K": (3, 16, torch.float32, False),
    "Q4_K": (4, 32, torch.float32, True),
    "Q5_K": (8, 32, torch.float32, True),
    "Q6_K": (8, 16, torch.float32, False),
    "TQ1_0": (2, 256, torch.float16, False),
    "TQ2_0": (2, 256, torch.float16, False),
}


def random_blocks(name: str, rows: int = 37, columns: int = 512) -> Tensor:
    """Any bytes are blocks of some weights, infinite and not a number among them."""
    generator = torch.Generator().manual_seed(by_name(name).number)
    return torch.randint(
        0, 256, (rows, by_name(name).row_bytes(columns)), generator=generator, dtype=torch.uint8
    )


def without_threes(name: str, data: Tensor) -> Tensor:
    """Of TQ2_0, blocks as writers make them; files may hold a fourth code."""
    if name != "TQ2_0":
        return data
    blocks = data.view(-1, 66).clone()
    low = blocks[:, :64] & 0x55
    blocks[:, :64] &= ~(low << 1)
    return blocks.view(data.shape)


def theirs(name: str, data: Tensor) -> Tensor:
    with np.errstate(all="ignore"):
        values = gguf.quants.dequantize(data.numpy(), gguf.GGMLQuantizationType[name])
    return torch.from_numpy(np.array(values, dtype=np.float32))


def same_bits(one: Tensor, two: Tensor) -> bool:
    """Signs of zeros included; any NaN is like another."""
    nans = one.isnan()
    assert torch.equal(nans, two.isnan())
    return torch.equal(one[~nans].view(torch.int32), two[~nans].view(torch.int32))


@pytest.mark.parametrize("name", TYPES)
def test_blocks_decode_to_the_bits_of_the_reference(name):
    data = random_blocks(name)
    for blocks in (data, torch.zeros_like(data), torch.full_like(data, 255), torch.full_like(data, 0x77)):
        assert same_bits(decode_blocks(by_name(name), blocks), theirs(name, blocks))


@pytest.mark.parametrize("name", TYPES)
def test_wide_rows_and_slices_decode_as_single_rows_do(name):
    data = random_blocks(name, rows=3, columns=3 << 17)
    whole = decode_blocks(by_name(name), data)
    for row in range(3):
        assert same_bits(whole[row : row + 1], decode_blocks(by_name(name), data[row : row + 1]))


@pytest.mark.parametrize("name", GRIDS)
def test_codes_decode_to_the_same_bits(name):
    bits, group, dtype, has_offsets = GRIDS[name]
    data = without_threes(name, random_blocks(name))
    packed = codes_of(by_name(name), data, torch.float32)
    assert packed is not None
    assert (packed.scheme.bits, packed.scheme.group, packed.scales.dtype) == (bits, group, dtype)
    assert packed.scheme.symmetric is not has_offsets
    assert (packed.offsets is not None) == has_offsets
    assert packed.zeros is None
    assert same_bits(decode(packed), decode_blocks(by_name(name), data))


def test_codes_stand_for_a_matrix_of_the_dtype_asked_for():
    data = random_blocks("Q4_K")
    packed = codes_of(by_name("Q4_K"), data, torch.bfloat16)
    assert packed is not None
    assert packed.dtype == torch.bfloat16
    assert same_bits(decode(packed).float(), decode_blocks(by_name("Q4_K"), data).bfloat16().float())


def test_plain_types_and_codes_beyond_the_grid_have_none():
    for name in ("F32", "F16", "BF16"):
        assert codes_of(by_name(name), random_blocks(name), torch.float32) is None
    data = torch.full((1, 66), 0xFF, dtype=torch.uint8)
    assert codes_of(by_name("TQ2_0"), data, torch.float32) is None


@pytest.mark.parametrize("name", LAYOUTS)
def test_blocks_put_together_are_the_blocks_taken_apart(name):
    layout, blocks = LAYOUTS[name], random_blocks(name).view(-1, by_name(name).nbytes)
    if name == "TQ1_0":  # several bytes stand for the same five digits; one of them is written
        blocks = layout.pack(layout.unpack(blocks))
    assert torch.equal(layout.pack(layout.unpack(blocks)), blocks)


@pytest.fixture
def experts(tmp_path: Path) -> GgufTensor:
    """Two matrices of three rows behind some other bytes."""
    path = tmp_path / "experts"
    path.write_bytes(b"before" + bytes(range(6 * 34)) + b"after")
    return GgufTensor("experts", (2, 3, 32), by_name("Q8_0"), path, 6, 6 * 34)


def test_rows_are_read_from_the_file_as_they_lie(experts):
    rows = torch.arange(6 * 34, dtype=torch.uint8).view(6, 34)
    assert torch.equal(read_rows(experts), rows)
    assert torch.equal(read_rows(experts, 2, 4), rows[2:4])
    assert torch.equal(read_rows(experts, 5), rows[5:])
    assert read_rows(experts, 3, 3).shape == (0, 34)
    with pytest.raises(AssertionError, match="6 rows"):
        read_rows(experts, 3, 7)


def test_file_that_shrank_since_is_truncated(experts):
    experts.file.write_bytes(experts.file.read_bytes()[:100])
    assert len(read_rows(experts, 0, 2)) == 2
    with pytest.raises(TruncatedFile, match="100"):
        read_rows(experts)
