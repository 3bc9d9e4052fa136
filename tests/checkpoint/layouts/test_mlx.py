"""MLX tensors are read as the format says, element by element, and written so that they are read again."""

import pytest
import torch

from minicpm.checkpoint.layouts import mlx
from minicpm.ops.quant_tensor import QuantTensor, decode, plain


def stream_of(row):
    return sum(int(word) << (32 * place) for place, word in enumerate(row))


def slowly(held, *, bits, group, dtype):
    """The format's formula, one element after the other."""
    inputs = held.scales.shape[1] * group
    out = torch.empty(len(held.weight), inputs, dtype=dtype)
    for o, row in enumerate(held.weight.tolist()):
        stream = stream_of(row)
        for i in range(inputs):
            q = (stream >> (bits * i)) & (2**bits - 1)
            scale, bias = held.scales[o, i // group].float(), held.biases[o, i // group].float()
            out[o, i] = (q * scale + bias).to(dtype)
    return out


def random_tensors(bits, outputs=5, inputs=96, group=32, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(bits)
    words = torch.randint(-(2**31), 2**31, (outputs, inputs * bits // 32), generator=generator)
    scales = torch.rand(outputs, inputs // group, generator=generator).to(dtype)
    biases = torch.randn(outputs, inputs // group, generator=generator).to(dtype)
    return mlx.Mlx(words.to(torch.int32).view(torch.uint32), scales, biases)


@pytest.mark.parametrize("bits", mlx.BITS)
@pytest.mark.parametrize("group", [32, 96])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_tensors_are_read_as_the_formula_says(bits, group, dtype):
    held = random_tensors(bits, group=group)
    found = mlx.unpack(held, bits=bits, group=group, dtype=dtype)
    assert isinstance(found, QuantTensor) == (bits in (2, 3, 4, 8))
    assert torch.equal(plain(found), slowly(held, bits=bits, group=group, dtype=dtype))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_packed_and_unpacked_it_is_the_same_to_the_last_bit(bits, matrix):
    weight = matrix(7, 96, bits, 32, offsets=True)
    held = mlx.pack(weight)
    assert held.weight.dtype == torch.uint32
    found = mlx.unpack(held, bits=bits, group=32, dtype=torch.bfloat16)
    assert (found.scheme, found.dtype) == (weight.scheme, weight.dtype)
    for part in ("codes", "scales", "offsets"):
        assert torch.equal(getattr(found, part), getattr(weight, part))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_symmetric_grid_has_exact_offsets(bits, matrix):
    weight = matrix(7, 96, bits, 32)
    found = mlx.unpack(mlx.pack(weight), bits=bits, group=32, dtype=torch.bfloat16)
    assert torch.equal(decode(found), decode(weight))


def test_an_offset_that_would_be_rounded_is_noticed(matrix):
    weight = matrix(7, 96, 4, 32, symmetric=False, dtype=torch.bfloat16)
    assert mlx.exact_offsets(weight) is None
    weight.zeros[:] = 4
    assert mlx.exact_offsets(weight) is not None


def test_large_matrices_are_decoded_in_slices(monkeypatch):
    held = random_tensors(5, outputs=9)
    whole = mlx.unpack(held, bits=5, group=32, dtype=torch.bfloat16)
    monkeypatch.setattr(mlx, "_SLICE", 2 * 96)
    assert torch.equal(mlx.unpack(held, bits=5, group=32, dtype=torch.bfloat16), whole)
