"""Our own layout gives back every bit of what it was given."""

import pytest
import torch

from minicpm.checkpoint.layouts import own
from minicpm.ops.quant_tensor import Scheme, decode, unpack_codes

KINDS = [{"symmetric": True}, {"symmetric": False}, {"offsets": True}]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_packed_and_unpacked_it_is_the_same_to_the_last_bit(bits, kind, matrix):
    weight = matrix(5, 66, bits, 22, **kind)
    held = {name.removeprefix("a.b."): tensor for name, tensor in own.pack("a.b", weight)}
    found = own.unpack(held, scheme=weight.scheme, dtype=torch.bfloat16)
    for part in own.PARTS:
        one, other = getattr(found, part), getattr(weight, part)
        assert one is other is None or torch.equal(one, other)
    assert (found.scheme, found.dtype) == (weight.scheme, weight.dtype)
    assert torch.equal(decode(found), decode(weight))


def test_a_row_of_codes_is_one_stream_of_bits(matrix):
    weight = matrix(3, 20, 3, 10)
    codes = unpack_codes(weight.codes, 3, 20)
    for o, row in enumerate(dict(own.pack("x", weight))["x.codes"].tolist()):
        stream = sum(byte << (8 * place) for place, byte in enumerate(row))
        assert [(stream >> (3 * i)) & 7 for i in range(20)] == codes[o].tolist()


def test_config_says_the_most_frequent_scheme_once():
    few, many = Scheme(8, 128), Scheme(4, 64)
    said = own.quantization_config({"a": many, "b": few, "c": many})
    assert said == {
        "quant_method": "minicpm",
        "format": 1,
        "default": {"bits": 4, "group": 64, "symmetric": True},
        "modules": {"b": {"bits": 8, "group": 128, "symmetric": True}},
    }
