"""Products with packed matrices equal those with the weights they stand for, in every format and number."""

from dataclasses import replace

import pytest
import torch

from minicpm.ops.native.matrix import NativeMatrix, pack, why_not
from minicpm.ops.native.runtime import Runtime
from minicpm.ops.native.unpack import unpacked
from minicpm.ops.quant_tensor import QuantTensor, Scheme, decode, pack_codes

ROWS = [1, 2, 3, 5, 8, 11, 12, 13, 25, 40, 200]
SCHEMES = [
    Scheme(8, 128), Scheme(8, 64, symmetric=False), Scheme(4, 32), Scheme(4, 64), Scheme(4, 128),
    Scheme(4, 64, symmetric=False), Scheme(2, 128), Scheme(2, 64), Scheme(2, 32, symmetric=False),
    Scheme(8, 16), Scheme(4, 16, symmetric=False), Scheme(2, 16),
]  # fmt: skip
NAMES = [f"{s.bits} bits, {s.group}{'' if s.symmetric else ', zeros'}" for s in SCHEMES]

# float32 sums in another order.
FLOAT32 = 1e-5


def runtime(native, threads=2):
    made = Runtime(threads)
    native.choose(native.instruction_set())
    return made


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantized(scheme, outputs, inputs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**scheme.bits, (outputs, inputs), generator=generator, dtype=torch.uint8)
    scales = (torch.rand(outputs, inputs // scheme.group, generator=generator) * 0.01 + 1e-3).bfloat16()
    zeros = None
    if not scheme.symmetric:
        zeros = torch.randint(0, 2**scheme.bits, scales.shape, generator=generator, dtype=torch.uint8)
    return QuantTensor(pack_codes(codes, scheme.bits), scales, zeros, scheme)


def exact(weight):
    """The matrix before its numbers are rounded to the scales' dtype."""
    wide = QuantTensor(weight.codes, weight.scales.float(), weight.zeros, weight.scheme)
    return decode(wide).double()


def rounded(x, group):
    """Rows as the kernels hold them: 8 bits per group of columns, at most half a step from what they were."""
    grouped = x.unflatten(1, (-1, group))
    most = grouped.abs().amax(-1, keepdim=True)
    held = (grouped * (127 / most)).round() * (most / 127)
    assert ((held - grouped).abs() <= 0.501 * most / 127).all()
    return held.flatten(1).double()


def error(found, wanted):
    return ((found.double() - wanted).norm() / wanted.norm()).item()


@pytest.fixture
def isa(native, monkeypatch):
    """The instruction set in turn, by the variable that a user would set."""
    monkeypatch.setenv("MINICPM_ISA", native.instruction_set())
    return native


@pytest.mark.parametrize("scheme", SCHEMES, ids=NAMES)
@pytest.mark.parametrize("shape", [(200, 256), (33, 128), (1, 384)])
def test_a_product_is_that_of_the_decoded_matrix_with_rows_of_eight_bits(isa, scheme, shape):
    weight = quantized(scheme, *shape)
    matrix = pack([weight], runtime(isa))
    for rows in ROWS:
        x = normal(rows, shape[1], seed=rows)
        wanted = rounded(x, scheme.group) @ exact(weight).T
        assert error(matrix(x, torch.float32), wanted) < FLOAT32


@pytest.mark.parametrize("scheme", SCHEMES, ids=NAMES)
def test_a_packed_matrix_comes_back_as_it_was(isa, scheme):
    weight = quantized(scheme, 70, 256)
    matrix = pack([weight], runtime(isa))
    assert torch.equal(matrix.decoded().double(), exact(weight))
    ids = torch.tensor([69, 0, 33])
    assert torch.equal(matrix.gather(ids), matrix.decoded()[ids].bfloat16())


@pytest.mark.parametrize("scheme", SCHEMES, ids=NAMES)
@pytest.mark.parametrize("interleaved", [False, True])
def test_rows_of_a_packed_matrix_are_given_back_code_by_code(isa, scheme, interleaved):
    weight = quantized(scheme, 140, 256)
    matrix = pack([weight.rows(0, 70), weight.rows(70, 140)], runtime(isa), interleaved=interleaved)
    back = unpacked(matrix, 70, 140)
    assert back.scheme == weight.scheme
    assert torch.equal(back.codes, weight.codes[70:])
    assert torch.equal(back.scales, weight.scales[70:].float())
    assert (back.zeros is None) == scheme.symmetric
    if not scheme.symmetric:
        assert torch.equal(back.zeros, weight.zeros[70:])


@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_of_three_bits_are_multiplied_as_four(isa, symmetric):
    weight = quantized(Scheme(3, 64, symmetric=symmetric), 70, 256)
    matrix, x = pack([weight], runtime(isa)), normal(3, 256)
    assert matrix.bits == 4
    assert torch.equal(matrix.decoded().double(), exact(weight))
    assert error(matrix(x, torch.float32), rounded(x, 64) @ exact(weight).T) < FLOAT32


def test_matrices_of_different_schemes_become_one(isa):
    parts = [quantized(Scheme(4, 64), 40, 256), quantized(Scheme(8, 32, symmetric=False), 30, 256)]
    assert why_not(parts) is None
    both = pack(parts, runtime(isa))
    assert torch.equal(both.decoded().double(), torch.cat([exact(part) for part in parts]))


def with_offsets(bits, group, outputs, inputs, seed=0):
    """As Q4_K of GGUF and affine groups of MLX are, with numbers that float16 holds."""
    weight = quantized(Scheme(bits, group, symmetric=False), outputs, inputs, seed)
    return replace(weight, zeros=None, offsets=(-3.5 * weight.scales).half().float())


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group", [16, 32, 128])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_offsets_are_added_once_per_group(isa, bits, group, rows):
    weight, x = with_offsets(bits, group, 70, 256), normal(rows, 256)
    matrix = pack([weight], runtime(isa))
    wanted = decode(replace(weight, scales=weight.scales.float()))
    assert torch.equal(matrix.decoded(), wanted)
    assert torch.equal(matrix.gather(torch.tensor([69, 3])), wanted[[69, 3]].bfloat16())
    assert error(matrix(x, torch.float32), rounded(x, group) @ wanted.double().T) < FLOAT32
    back = unpacked(matrix, 0, 70)
    assert torch.equal(decode(back), wanted)


def test_matrices_with_offsets_lie_under_each_other(isa):
    gate, up = with_offsets(4, 32, 40, 64, seed=1), with_offsets(8, 32, 40, 64, seed=2)
    both = pack([gate, up], runtime(isa), interleaved=True)
    wanted = [decode(replace(part, scales=part.scales.float())) for part in (gate, up)]
    assert torch.equal(both.decoded(), torch.cat(wanted))


def test_rows_are_given_back_in_groups_of_the_kernels(isa):
    weight = quantized(Scheme(8, 1024), 40, 2048)
    back = unpacked(pack([weight], runtime(isa)), 0, 40)
    assert back.scheme == Scheme(8, 128)
    assert torch.equal(decode(back).double(), exact(weight))


@pytest.mark.parametrize("shape", [(200, 256), (33, 30), (1, 2), (64, 1026)])
@pytest.mark.parametrize("interleaved", [False, True])
def test_rows_of_bfloat16_are_given_back_bit_by_bit(isa, shape, interleaved):
    first, second = normal(*shape, seed=1).bfloat16(), normal(*shape, seed=2).bfloat16()
    matrix = pack([first, second], runtime(isa), interleaved=interleaved)
    assert torch.equal(unpacked(matrix, 0, len(first)), first)
    assert torch.equal(unpacked(matrix, len(first), 2 * len(first)), second)


@pytest.mark.parametrize("shape", [(200, 256), (33, 30), (1, 2), (64, 1026)])
def test_a_bfloat16_product_is_exact_up_to_the_order_of_sums(isa, shape):
    weight = normal(*shape).bfloat16()
    matrix = pack([weight], runtime(isa))
    for rows in ROWS:
        x = normal(rows, shape[1], seed=rows)
        assert error(matrix(x, torch.float32), x.double() @ weight.double().T) < FLOAT32
    assert torch.equal(matrix.decoded(), weight.float())


@pytest.mark.parametrize("scheme", [None, Scheme(4, 64)], ids=["bfloat16", "4 bits"])
def test_a_row_has_the_same_bits_alone_and_in_any_company(isa, scheme):
    weight = normal(96, 512).bfloat16() if scheme is None else quantized(scheme, 96, 512)
    matrix = pack([weight], runtime(isa))
    x = normal(200, 512)
    together = matrix(x, torch.float32)
    for rows in ROWS:
        assert torch.equal(matrix(x[:rows], torch.float32), together[:rows])
    assert torch.equal(matrix(x[57:58], torch.float32), together[57:58])


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads_gives_the_same_bits(isa, threads):
    weight, x = quantized(Scheme(4, 64), 200, 256), normal(13, 256)
    alone = pack([weight], runtime(isa, 1))(x)
    assert torch.equal(pack([weight], runtime(isa, threads))(x), alone)


def test_matrices_under_each_other_keep_their_rows_in_turns_of_sixteen_too(isa):
    gate, up = normal(40, 64, seed=1).bfloat16(), normal(40, 64, seed=2).bfloat16()
    both = pack([gate, up], runtime(isa), interleaved=True)
    assert torch.equal(both.decoded(), torch.cat((gate, up)).float())
    x = normal(3, 64)
    assert torch.equal(both(x), pack([gate, up], both.runtime)(x))


def test_rows_of_bfloat16_can_be_replaced(isa):
    first, second = normal(40, 64, seed=1).bfloat16(), normal(50, 64, seed=2).bfloat16()
    both = pack([first, second], runtime(isa))
    changed = normal(50, 64, seed=3).bfloat16()
    both.write(40, changed)
    assert torch.equal(both.decoded(), torch.cat((first, changed)).float())


def test_scales_beyond_float16_are_brought_into_its_range(isa):
    weight = quantized(Scheme(8, 128), 32, 128)
    tiny = QuantTensor(weight.codes, weight.scales * 2**-60, None, weight.scheme)
    matrix, x = pack([tiny], runtime(isa)), normal(2, 128)
    assert error(matrix(x, torch.float32), rounded(x, 128) @ exact(tiny).T) < FLOAT32


def test_no_rows_give_no_rows(isa):
    matrix = pack([normal(40, 64).bfloat16()], runtime(isa))
    assert matrix(torch.empty(0, 64)).shape == (0, 40)
    assert isinstance(matrix, NativeMatrix)


def test_formats_that_no_kernel_knows_are_named(isa):
    assert "float32" in why_not([normal(4, 4)])
    assert "odd" in why_not([normal(4, 5).bfloat16()])
    assert "1 bits" in why_not([quantized(Scheme(1, 32), 4, 64)])
    assert "multiple" in why_not([quantized(Scheme(4, 8), 4, 64)])
    assert why_not([quantized(Scheme(4, 1024), 4, 2048)]) is None
