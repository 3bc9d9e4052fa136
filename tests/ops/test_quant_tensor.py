"""Packed matrices decode to exactly the numbers their codes and scales stand for."""

from dataclasses import replace

import pytest
import torch

from minicpm.ops.linear import linear, reference
from minicpm.ops.linear.cpu import decode_by_byte
from minicpm.ops.quant_tensor import (
    QuantTensor,
    Scheme,
    can_join,
    decode,
    joined,
    pack_codes,
    unpack_codes,
)

EVERY_WIDTH = pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])


def random_codes(rows, columns, bits, seed=0):
    return torch.randint(0, 2**bits, (rows, columns), generator=torch.Generator().manual_seed(seed))


def quantised(bits, *, symmetric, rows=5, group=6, groups=3, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = pack_codes(random_codes(rows, group * groups, bits, seed), bits)
    scales = torch.rand(rows, groups, generator=generator).to(dtype)
    zeros = None if symmetric else torch.randint(0, 2**bits, (rows, groups), generator=generator).to(dtype)
    return QuantTensor(codes, scales, zeros, Scheme(bits, group, symmetric))


@EVERY_WIDTH
@pytest.mark.parametrize("columns", [1, 7, 8, 63, 64, 1000])
def test_codes_return_from_their_bytes(bits, columns):
    codes = random_codes(3, columns, bits)
    packed = pack_codes(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (3, -(-columns * bits // 8))
    assert torch.equal(unpack_codes(packed, bits, columns).long(), codes)


def test_the_first_code_lies_in_the_lowest_bits():
    assert pack_codes(torch.tensor([[1, 2, 3, 0, 2]]), 2).tolist() == [[0b00_11_10_01, 0b10]]


@EVERY_WIDTH
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_matrix_is_decoded_number_by_number(bits, symmetric, dtype):
    weight = quantised(bits, symmetric=symmetric, dtype=dtype)
    codes = random_codes(5, 18, bits)
    found = decode(weight)
    assert (found.shape, found.dtype) == (weight.shape, weight.dtype) == ((5, 18), dtype)
    for o in range(5):
        for i in range(18):
            zero = 2 ** (bits - 1) if symmetric else weight.zeros[o, i // 6].float()
            exact = (codes[o, i].float() - zero) * weight.scales[o, i // 6].float()
            assert found[o, i] == exact.to(dtype)


@EVERY_WIDTH
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("group", "groups"), [(6, 3), (7, 1), (32, 4)])
def test_decoding_by_byte_gives_the_same_bits(bits, symmetric, dtype, group, groups):
    weight = quantised(bits, symmetric=symmetric, dtype=dtype, group=group, groups=groups)
    assert torch.equal(decode_by_byte(weight), decode(weight))
    assert torch.equal(decode_by_byte(weight.rows(1, 4)), decode(weight)[1:4])


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_product_with_a_packed_matrix_is_one_with_the_decoded(symmetric):
    weight = quantised(4, symmetric=symmetric)
    x = torch.randn(7, 18, generator=torch.Generator().manual_seed(1))
    wanted = torch.nn.functional.linear(x, decode(weight))
    for form in (linear, reference.linear):
        assert torch.equal(form(x, weight), wanted)
        assert torch.equal(form(x, decode(weight)), wanted)


@pytest.mark.parametrize("symmetric", [True, False])
def test_joined_matrices_decode_as_each_alone_and_rows_give_them_back(symmetric):
    parts = [quantised(2, symmetric=symmetric, rows=n, seed=n) for n in (4, 1, 3)]
    whole = joined(parts)
    assert torch.equal(decode(whole), torch.cat([decode(part) for part in parts]))
    assert torch.equal(decode(whole.rows(4, 5)), decode(parts[1]))
    assert whole.rows(4, 5).codes.untyped_storage().data_ptr() == whole.codes.untyped_storage().data_ptr()


@pytest.mark.parametrize("kinds", [[(2, True), (4, True)], [(3, False), (8, True)], [(4, True), (4, False)]])
@pytest.mark.parametrize("groups", [(6, 6), (6, 4)])
def test_matrices_of_different_schemes_are_joined_in_one_that_holds_all(kinds, groups):
    parts = [
        quantised(bits, symmetric=symmetric, group=group, groups=12 // group, seed=bits)
        for (bits, symmetric), group in zip(kinds, groups, strict=True)
    ]
    assert can_join(parts)
    whole = joined(parts)
    assert whole.scheme.bits == max(bits for bits, _ in kinds)
    assert torch.equal(decode(whole), torch.cat([decode(part) for part in parts]))


def test_what_no_one_scheme_holds_is_not_joined():
    first, other = quantised(4, symmetric=True), quantised(8, symmetric=True, dtype=torch.bfloat16)
    assert not can_join([first, other])
    with pytest.raises(AssertionError, match="different kinds"):
        joined([first, other])


def with_offsets(dtype=torch.float16):
    weight = quantised(4, symmetric=False, dtype=dtype)
    offsets = -weight.zeros
    return replace(weight, zeros=None, offsets=offsets, result=torch.bfloat16)


def test_offsets_are_added_to_scaled_codes():
    weight = with_offsets()
    codes = unpack_codes(weight.codes, 4, 18).unflatten(1, (3, 6)).float()
    exact = codes * weight.scales.float()[..., None] + weight.offsets.float()[..., None]
    assert weight.dtype == torch.bfloat16
    assert torch.equal(decode(weight), exact.flatten(1).bfloat16())
    assert torch.equal(decode_by_byte(weight), decode(weight))
    whole = joined([weight.rows(0, 2), weight.rows(2, 5)])
    assert torch.equal(decode(whole), decode(weight))
    assert whole.nbytes == weight.nbytes == 5 * 9 + 2 * 5 * 3 * 2


def test_scales_may_be_of_another_dtype_than_the_matrix():
    weight = replace(quantised(4, symmetric=True, dtype=torch.float16), result=torch.bfloat16)
    assert torch.equal(decode_by_byte(weight), decode(replace(weight, result=torch.float32)).bfloat16())


def test_the_bytes_are_those_of_all_parts():
    weight = quantised(4, symmetric=False)
    assert weight.nbytes == 5 * 9 + 2 * 5 * 3 * 4
