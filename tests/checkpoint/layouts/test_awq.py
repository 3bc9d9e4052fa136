"""AutoAWQ tensors are read as the format says, element by element, and written to be read again."""

import pytest
import torch

from minicpm.checkpoint.layouts import awq
from minicpm.ops.quant_tensor import QuantTensor, Scheme, decode, pack_codes

ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def slowly(held, dtype):
    """The format's formula, one element after the other."""
    inputs, outputs = len(held.qweight), held.scales.shape[1]
    group = inputs // len(held.scales)
    qweight, qzeros = held.qweight.tolist(), held.qzeros.tolist()
    out = torch.empty(outputs, inputs, dtype=dtype)
    for column in range(outputs // 8):
        for nibble in range(8):
            o = 8 * column + ORDER[nibble]
            for i in range(inputs):
                q = (qweight[i][column] >> (4 * nibble)) & 15
                z = (qzeros[i // group][column] >> (4 * nibble)) & 15
                out[o, i] = (held.scales[i // group, o].float() * (q - z)).to(dtype)
    return out


def test_a_word_is_drawn_as_the_format_draws_it():
    codes = torch.arange(8, dtype=torch.uint8)[:, None].expand(8, 2)
    held = awq.pack(QuantTensor(pack_codes(codes, 4), torch.ones(8, 1), None, Scheme(4, 2)))
    assert {word & 0xFFFFFFFF for word in held.qweight.flatten().tolist()} == {0x75316420}
    assert {word & 0xFFFFFFFF for word in held.qzeros.flatten().tolist()} == {0x88888888}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("outputs", "inputs", "group"), [(8, 64, 32), (72, 30, 10), (16, 63, 63)])
def test_tensors_are_read_as_the_formula_says(symmetric, outputs, inputs, group, matrix):
    held = awq.pack(matrix(outputs, inputs, 4, group, symmetric=symmetric))
    found = awq.unpack(held, dtype=torch.bfloat16)
    assert torch.equal(decode(found), slowly(held, torch.bfloat16))


@pytest.mark.parametrize("symmetric", [True, False])
def test_packed_and_unpacked_it_is_the_same_to_the_last_bit(symmetric, matrix):
    weight = matrix(24, 96, 4, 32, symmetric=symmetric)
    found = awq.unpack(awq.pack(weight), dtype=torch.bfloat16)
    assert (found.scheme, found.dtype) == (weight.scheme, weight.dtype)
    for part in ("codes", "scales"):
        assert torch.equal(getattr(found, part), getattr(weight, part))
    assert (found.zeros is None) == symmetric
    assert symmetric or torch.equal(found.zeros, weight.zeros)


def test_a_zero_is_stored_as_it_is(matrix):
    weight = matrix(8, 32, 4, 32, symmetric=False)
    weight.zeros[:] = 0
    assert awq.pack(weight).qzeros.eq(0).all()
    assert awq.unpack(awq.pack(weight), dtype=torch.bfloat16).zeros.eq(0).all()


def test_words_may_be_called_unsigned(matrix):
    held = awq.pack(matrix(16, 64, 4, 32, symmetric=False))
    unsigned = held._replace(qweight=held.qweight.view(torch.uint32), qzeros=held.qzeros.view(torch.uint32))
    wanted, found = (awq.unpack(one, dtype=torch.bfloat16) for one in (held, unsigned))
    assert torch.equal(found.codes, wanted.codes)
    assert torch.equal(found.zeros, wanted.zeros)
