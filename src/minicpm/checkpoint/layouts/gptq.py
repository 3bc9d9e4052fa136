"""GPTQ: codes along the input axis, zeros along the outputs, and an index of groups.

    W[o, i] = scales[g_idx[i], o] * (q[i, o] - zero[g_idx[i], o])

qweight int32 [I * bits / 32, O]: each column is one stream of bits along the inputs, lowest first; of 3 bits
32 codes lie in 3 words. qzeros int32 [I / g, O * bits / 32]: each row is one along the outputs. Files of
version 1 store zero - 1 in them, those of version 2 the zero itself.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from minicpm.checkpoint.layouts.words import WORD_BITS, as_bytes, as_words, centred, kept_dtype
from minicpm.errors import WeightMismatch
from minicpm.ops.quant_tensor import QuantTensor, Scheme, Weight, pack_codes, unpack_codes

BITS = (2, 3, 4, 8)
V1, V2 = 1, 0
"""What is missing from a stored zero, by version."""


class Gptq(NamedTuple):
    """The tensors of one matrix [O, I]."""

    qweight: Tensor
    scales: Tensor
    qzeros: Tensor | None = None
    g_idx: Tensor | None = None


def unpack(held: Gptq, *, bits: int, missing: int, dtype: torch.dtype, unequal: bool = False) -> Weight:
    """The matrix of this dtype: packed, or decoded where inputs are not in the order of their groups.

    `missing` is what stored zeros lack; without zeros the grid is symmetric. `unequal` says that groups may
    differ in size. Shapes must have been checked. Raises WeightMismatch for an index of groups that
    contradicts them.
    """
    groups, inputs = len(held.scales), len(held.qweight) * WORD_BITS // bits
    zeros = None if held.qzeros is None else _zeros(held.qzeros, bits, held.scales.shape[1]) + missing
    if zeros is not None and centred(zeros, bits):
        zeros = None
    weight = QuantTensor(
        codes=as_bytes(held.qweight.t()),
        scales=held.scales.t().contiguous(),
        zeros=None if zeros is None else zeros.t().contiguous(),
        scheme=Scheme(bits=bits, group=inputs // groups, symmetric=zeros is None),
        result=kept_dtype(held.scales, dtype),
    )
    if held.g_idx is None or _in_order(held.g_idx, weight.scheme.group):
        return weight
    _check_groups(held.g_idx, groups, weight.scheme.group, unequal=unequal)
    return _decoded(weight, held.g_idx.long())


def pack(weight: QuantTensor, *, missing: int = V1) -> Gptq:
    """The tensors of a matrix with codes and zeros; I and O times bits must be multiples of 32."""
    outputs, inputs = weight.shape
    bits = weight.scheme.bits
    zeros = torch.full(weight.scales.shape, 2 ** (bits - 1)) if weight.zeros is None else weight.zeros
    stored = zeros.t().to(torch.int32) - missing
    assert weight.offsets is None, "offsets are no zeros"
    assert 0 <= int(stored.min()) <= int(stored.max()) < 2**bits, "a zero does not fit its bits"
    assert outputs * bits % WORD_BITS == inputs * bits % WORD_BITS == 0, "codes do not fill words"
    return Gptq(
        qweight=as_words(weight.codes).t().contiguous(),
        scales=weight.scales.t().contiguous(),
        qzeros=as_words(pack_codes(stored, bits)),
        g_idx=(torch.arange(inputs) // weight.scheme.group).to(torch.int32),
    )


def _zeros(qzeros: Tensor, bits: int, outputs: int) -> Tensor:
    """Stored zeros [I / g, O] uint8."""
    return unpack_codes(as_bytes(qzeros), bits, outputs)


def _in_order(g_idx: Tensor, group: int) -> bool:
    return torch.equal(g_idx.long(), torch.arange(len(g_idx)) // group)


def _check_groups(g_idx: Tensor, groups: int, group: int, *, unequal: bool) -> None:
    lowest, highest = int(g_idx.min()), int(g_idx.max())
    if lowest < 0 or highest >= groups:
        raise WeightMismatch(
            f"g_idx names groups {lowest} to {highest}, and there are scales of groups 0 to {groups - 1}"
        )
    counts = torch.bincount(g_idx.long(), minlength=groups)
    other = (counts != group).nonzero().flatten()
    if len(other) and not unequal:
        first = int(other[0])
        raise WeightMismatch(
            f"g_idx gives {len(other)} of {groups} groups another size than {group}, group {first} for one "
            f"{int(counts[first])} inputs, and quantization_config does not say desc_act"
        )


def _decoded(weight: QuantTensor, g_idx: Tensor) -> Tensor:
    """In float32, rounded once, as `decode` does where groups are runs of inputs."""
    codes = unpack_codes(weight.codes, weight.scheme.bits, weight.shape[1]).float()
    zeros: Tensor | float = 2 ** (weight.scheme.bits - 1)
    if weight.zeros is not None:
        zeros = weight.zeros.float()[:, g_idx]
    return ((codes - zeros) * weight.scales.float()[:, g_idx]).to(weight.dtype)
