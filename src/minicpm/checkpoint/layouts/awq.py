"""AutoAWQ's "gemm": 4-bit codes and zeros along the outputs, eight to a word in an order of their own.

    W[o, i] = scales[i / g, o] * (q[i, o] - zero[i / g, o])

qweight int32 [I, O / 8] and qzeros int32 [I / g, O / 8]: bits 4 k of word c hold output 8 c + ORDER[k].
"""

from typing import NamedTuple

import torch
from torch import Tensor

from minicpm.checkpoint.layouts.words import as_words, centred, kept_dtype
from minicpm.ops.quant_tensor import QuantTensor, Scheme, pack_codes, unpack_codes

BITS = 4
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_SYMMETRIC = 8


class Awq(NamedTuple):
    """The tensors of one matrix [O, I]."""

    qweight: Tensor
    scales: Tensor
    qzeros: Tensor


def unpack(held: Awq, *, dtype: torch.dtype) -> QuantTensor:
    """The matrix of this dtype; shapes must have been checked."""
    inputs, zeros = len(held.qweight), _by_output(held.qzeros)
    symmetric = centred(zeros, BITS)
    return QuantTensor(
        codes=pack_codes(_by_output(held.qweight), BITS),
        scales=held.scales.t().contiguous(),
        zeros=None if symmetric else zeros,
        scheme=Scheme(bits=BITS, group=inputs // len(held.scales), symmetric=symmetric),
        result=kept_dtype(held.scales, dtype),
    )


def pack(weight: QuantTensor) -> Awq:
    """The tensors of a matrix of 4-bit codes and zeros; O must be a multiple of 8."""
    assert weight.scheme.bits == BITS, "AWQ has 4 bits"
    assert weight.offsets is None, "offsets are no zeros"
    zeros = torch.full(weight.scales.shape, _SYMMETRIC) if weight.zeros is None else weight.zeros
    assert 0 <= int(zeros.min()) <= int(zeros.max()) < 2**BITS, "a zero does not fit its bits"
    codes = unpack_codes(weight.codes, BITS, weight.shape[1])
    return Awq(_in_words(codes.t()), weight.scales.t().contiguous(), _in_words(zeros.t()))


def _by_output(words: Tensor) -> Tensor:
    """Words [n, O / 8] as codes [O, n] uint8. Words are turned first, for there are eight times fewer."""
    turned = words.t().contiguous().view(torch.int32)
    codes = torch.empty(len(turned), len(ORDER), turned.shape[1], dtype=torch.uint8)
    for place, output in enumerate(ORDER):
        codes[:, output] = (turned >> (BITS * place)) & (2**BITS - 1)
    return codes.flatten(0, 1)


def _in_words(codes: Tensor) -> Tensor:
    slots = codes.to(torch.uint8).reshape(len(codes), -1, 8)
    return as_words(pack_codes(slots[..., list(ORDER)].flatten(1), BITS))
