"""GPTQ tensors are read as the format says, element by element, and written so that they are read again."""

import pytest
import torch

from minicpm.checkpoint.layouts import gptq
from minicpm.errors import WeightMismatch
from minicpm.ops.quant_tensor import QuantTensor, Scheme, decode, pack_codes

BITS = pytest.mark.parametrize("bits", [2, 3, 4, 8])


def words_of(held, name):
    return [[word & 0xFFFFFFFF for word in row] for row in getattr(held, name).tolist()]


def code(qweight, i, o, bits):
    """Input i of output o: for 3 bits 32 codes lie in 3 words, two of them across a border."""
    if bits != 3:
        per_word = 32 // bits
        return (qweight[i // per_word][o] >> (bits * (i % per_word))) & (2**bits - 1)
    first, place = 3 * (i // 32), i % 32
    a, b, c = (qweight[first + n][o] for n in range(3))
    if place == 10:
        return (a >> 30) | ((b & 1) << 2)
    if place == 21:
        return (b >> 31) | ((c & 3) << 1)
    if place < 10:
        return (a >> (3 * place)) & 7
    if place < 21:
        return (b >> (3 * (place - 11) + 1)) & 7
    return (c >> (3 * (place - 22) + 2)) & 7


def slowly(held, *, bits, missing, dtype):
    """The format's formula, one element after the other."""
    qweight, qzeros = words_of(held, "qweight"), words_of(held, "qzeros")
    turned = [list(column) for column in zip(*qzeros, strict=True)]
    inputs, outputs = len(held.g_idx), held.scales.shape[1]
    out = torch.empty(outputs, inputs, dtype=dtype)
    for o in range(outputs):
        for i in range(inputs):
            group = int(held.g_idx[i])
            zero = code(turned, o, group, bits) + missing
            out[o, i] = (held.scales[group, o].float() * (code(qweight, i, o, bits) - zero)).to(dtype)
    return out


def test_a_word_is_drawn_as_the_format_draws_it():
    """Eight inputs of one output, lowest first, and a symmetric zero of 4 bits is stored as 7."""
    codes = torch.arange(8, dtype=torch.uint8).repeat(4)[None].expand(8, 32)
    held = gptq.pack(QuantTensor(pack_codes(codes, 4), torch.ones(8, 1), None, Scheme(4, 32)))
    assert {word & 0xFFFFFFFF for word in held.qweight.flatten().tolist()} == {0x76543210}
    assert {word & 0xFFFFFFFF for word in held.qzeros.flatten().tolist()} == {0x77777777}


@BITS
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("missing", [gptq.V1, gptq.V2])
@pytest.mark.parametrize(("outputs", "inputs", "group"), [(32, 96, 32), (64, 64, 64), (32, 160, 32)])
def test_tensors_are_read_as_the_formula_says(bits, symmetric, missing, outputs, inputs, group, matrix):
    weight = matrix(outputs, inputs, bits, group, symmetric=symmetric)
    held = gptq.pack(weight, missing=missing)
    assert held.qweight.shape == (inputs * bits // 32, outputs)
    assert held.qzeros.shape == (inputs // group, outputs * bits // 32)
    found = gptq.unpack(held, bits=bits, missing=missing, dtype=torch.bfloat16)
    assert torch.equal(decode(found), slowly(held, bits=bits, missing=missing, dtype=torch.bfloat16))


@BITS
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("missing", [gptq.V1, gptq.V2])
def test_packed_and_unpacked_it_is_the_same_to_the_last_bit(bits, symmetric, missing, matrix):
    weight = matrix(96, 128, bits, 32, symmetric=symmetric)
    found = gptq.unpack(gptq.pack(weight, missing=missing), bits=bits, missing=missing, dtype=torch.bfloat16)
    assert (found.scheme, found.dtype) == (weight.scheme, weight.dtype)
    for part in ("codes", "scales"):
        assert torch.equal(getattr(found, part), getattr(weight, part))
    assert (found.zeros is None) == symmetric
    assert symmetric or torch.equal(found.zeros, weight.zeros)


def test_an_index_in_order_says_nothing_new(matrix):
    held = gptq.pack(matrix(32, 64, 4, 32))
    for index in (held.g_idx, None, held.g_idx.long()):
        found = gptq.unpack(held._replace(g_idx=index), bits=4, missing=1, dtype=torch.bfloat16)
        assert isinstance(found, QuantTensor)


@pytest.mark.parametrize("symmetric", [True, False])
def test_inputs_in_the_order_of_activations_are_decoded_exactly(symmetric, matrix):
    held = gptq.pack(matrix(32, 96, 4, 32, symmetric=symmetric))
    shuffled = torch.randperm(96, generator=torch.Generator().manual_seed(3))
    held = held._replace(g_idx=held.g_idx[shuffled])
    found = gptq.unpack(held, bits=4, missing=1, dtype=torch.bfloat16)
    assert isinstance(found, torch.Tensor)
    assert torch.equal(found, slowly(held, bits=4, missing=1, dtype=torch.bfloat16))


def test_without_zeros_the_grid_is_symmetric(matrix):
    held = gptq.pack(matrix(32, 64, 4, 32))
    found = gptq.unpack(held._replace(qzeros=None), bits=4, missing=1, dtype=torch.bfloat16)
    assert torch.equal(decode(found), slowly(held, bits=4, missing=1, dtype=torch.bfloat16))


@pytest.mark.parametrize("value", [-1, 2, 2**31 - 1])
def test_an_index_of_groups_that_are_not_there_is_refused_with_the_numbers(value, matrix):
    held = gptq.pack(matrix(32, 64, 4, 32))
    held.g_idx[5] = value
    with pytest.raises(WeightMismatch, match=rf"{min(value, 0)} to {max(value, 1)}.* 0 to 1"):
        gptq.unpack(held, bits=4, missing=1, dtype=torch.bfloat16)


def test_groups_of_unequal_sizes_are_refused_unless_said(matrix):
    held = gptq.pack(matrix(32, 64, 4, 32))
    held.g_idx[0] = 1
    with pytest.raises(WeightMismatch, match="2 of 2 groups another size than 32, group 0 for one 31 inputs"):
        gptq.unpack(held, bits=4, missing=1, dtype=torch.bfloat16)
    found = gptq.unpack(held, bits=4, missing=1, dtype=torch.bfloat16, unequal=True)
    assert torch.equal(found, slowly(held, bits=4, missing=1, dtype=torch.bfloat16))


@BITS
def test_words_may_be_called_unsigned(bits, matrix):
    held = gptq.pack(matrix(32, 64, bits, 32, symmetric=False))
    unsigned = held._replace(qweight=held.qweight.view(torch.uint32), qzeros=held.qzeros.view(torch.uint32))
    wanted, found = (gptq.unpack(one, bits=bits, missing=1, dtype=torch.bfloat16) for one in (held, unsigned))
    assert torch.equal(found.codes, wanted.codes)
    assert torch.equal(found.zeros, wanted.zeros)


def test_a_zero_beyond_the_codes_is_what_version_1_makes_of_its_largest(matrix):
    """15 stored stands for 16, by the formula; no code reaches it."""
    held = gptq.pack(matrix(32, 64, 4, 32, symmetric=False))
    held.qzeros[:] = -1
    found = gptq.unpack(held, bits=4, missing=1, dtype=torch.bfloat16)
    assert set(found.zeros.flatten().tolist()) == {16}
    assert torch.equal(decode(found), slowly(held, bits=4, missing=1, dtype=torch.bfloat16))
