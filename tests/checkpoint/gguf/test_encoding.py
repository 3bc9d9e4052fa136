"""Blocks are those of the format's quantizer, or nearer to the weights; packed matrices keep their codes."""

import ctypes
import importlib.util
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
from torch import Tensor

from minicpm.checkpoint.gguf.decoding import codes_of, decode_blocks
from minicpm.checkpoint.gguf.encoding import encode_blocks, encode_codes
from minicpm.checkpoint.gguf.types import BLOCK_TYPES, BlockType, by_name
from minicpm.errors import NotFinite
from minicpm.ops.quant_tensor import QuantTensor, Scheme, decode, pack_codes
from minicpm.quant.rounding import round_to
from minicpm.quant.ternary import pack

EXACT = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0"]
K_TYPES = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


def normal(rows: int = 64, columns: int = 512, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def awkward() -> Tensor:
    """Rows of zeros, of one value, of two that tie, of halves between codes, tiny, large and sparse ones.

    No block has zeros of both signs: which of them is the least is chance.
    """
    weight = normal()
    weight[0] = 0
    weight[1] = 0.25
    weight[2] = -0.3
    weight[3, ::2], weight[3, 1::2] = 1, -1
    weight[4, ::2], weight[4, 1::2] = -1, 1
    weight[5] = (weight[5] * 16).round() / 2
    weight[6] = torch.arange(512) % 32
    weight[7] = weight[7].where(weight[7].abs() > 2, 0)
    weight[8:16] *= torch.logspace(-20, 3, 8)[:, None]
    weight[16] = weight[16].abs() + 10
    weight[17] = -weight[16]
    weight[18, 1:] = 0
    weight[19] = 1e-7 * weight[19]
    weight[20] = -0.0
    return weight


def theirs(name: str, weight: Tensor) -> Tensor:
    blocks = gguf.quants.quantize(weight.float().numpy(), gguf.GGMLQuantizationType[name])
    return torch.from_numpy(blocks.copy()).view(torch.uint8)


@pytest.mark.parametrize("name", EXACT)
def test_bytes_are_those_of_the_reference(name):
    weight = awkward()
    assert torch.equal(encode_blocks(by_name(name), weight), theirs(name, weight))
    half = normal(seed=1).bfloat16()
    assert torch.equal(encode_blocks(by_name(name), half), theirs(name, half))


@pytest.mark.parametrize("name", [type.name for type in BLOCK_TYPES.values()])
def test_rows_do_not_depend_on_each_other(name):
    weight = awkward().repeat(1, 8)[:, : 8 * 256]
    whole = encode_blocks(by_name(name), weight.repeat(4, 1))
    alone = torch.cat([encode_blocks(by_name(name), row[None]) for row in weight])
    assert torch.equal(whole, alone.repeat(4, 1))


@pytest.mark.parametrize("name", [type.name for type in BLOCK_TYPES.values()])
def test_weights_below_what_a_type_holds_become_zeros(name):
    subnormal = normal(4) * 1e-40
    values = decode_blocks(by_name(name), encode_blocks(by_name(name), subnormal))
    assert torch.equal(
        values, subnormal if name == "F32" else values.where(values == 0, values.bfloat16().float())
    )
    assert values.abs().max() <= 1e-39


@pytest.mark.parametrize("name", [type.name for type in BLOCK_TYPES.values()])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused(name, bad):
    weight = normal(2000)
    weight[1234, 500] = bad
    with pytest.raises(NotFinite, match="1 rows of a matrix, row 1234 for one, hold NaN"):
        encode_blocks(by_name(name), weight)


@pytest.mark.parametrize("name", [type.name for type in BLOCK_TYPES.values() if type.name != "F32"])
def test_weights_beyond_what_a_type_holds_are_refused(name):
    weight = normal(8)
    weight[5, 3], weight[6, 3] = 3.4e38, -3.4e38
    with pytest.raises(NotFinite, match=f"2 rows.*row 5 for one, are too large for {name}.*F32"):
        encode_blocks(by_name(name), weight)


def weights(kind: str) -> Tensor:
    """What the K types are compared on."""
    base, other = normal(96, 1024), normal(96, 1024, seed=1)
    kinds = {
        "normal": base * 0.02,
        "heavy tails": base / other.abs().clamp_min(0.1) * 0.02,
        "positive": base.abs(),
        "negative": -1 - base.abs(),
        "sparse": base * (other > 1.6),
        "tiny": base * 1e-5,
        "large": base * 1e4,
        "rows of all sizes": base * torch.logspace(-4, 2, 96)[:, None],
        "columns of all sizes": base * torch.logspace(-2, 1, 1024),
    }
    return kinds[kind]


# What llama.cpp comes to, as shares of the weights' root mean square: all kinds in the order above.
LLAMA_CPP = {
    "Q2_K": (0.29754, 0.38094, 0.18851, 0.08703, 0.37193, 0.29791, 0.29749, 0.29166, 0.30017),
    "Q3_K": (0.15055, 0.18848, 0.14553, 0.11014, 0.05507, 0.15965, 0.15070, 0.15077, 0.14993),
    "Q4_K": (0.07156, 0.09971, 0.04243, 0.02170, 0.04425, 0.09703, 0.07156, 0.07112, 0.07227),
    "Q5_K": (0.03610, 0.05054, 0.02071, 0.01137, 0.03488, 2.16179, 0.03609, 0.03607, 0.03630),
    "Q6_K": (0.01773, 0.02656, 0.01768, 0.01311, 0.00651, 1.00000, 0.01771, 0.01769, 0.01790),
}
KINDS = ["normal", "heavy tails", "positive", "negative", "sparse", "tiny", "large"]
KINDS += ["rows of all sizes", "columns of all sizes"]


def error(type: BlockType, blocks: Tensor, weight: Tensor) -> float:
    return (decode_blocks(type, blocks) - weight).double().square().mean().item()


@pytest.fixture(scope="module")
def llama_cpp() -> Callable[[BlockType, Tensor], Tensor]:
    """The quantizer of llama.cpp, without weights of importance."""
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.origin is None:
        pytest.skip("llama-cpp-python is not installed; `pip install llama-cpp-python` would run this")
    library = ctypes.CDLL(next(Path(found.origin).parent.glob("lib/libggml-base.*")))
    function = library.ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_int, *2 * [ctypes.c_void_p], *3 * [ctypes.c_int64], ctypes.c_void_p]

    def quantize(type: BlockType, weight: Tensor) -> Tensor:
        weight = weight.contiguous()
        blocks = torch.empty(len(weight), type.row_bytes(weight.shape[1]), dtype=torch.uint8)
        done = function(type.number, weight.data_ptr(), blocks.data_ptr(), 0, *weight.shape, None)
        assert done == blocks.nbytes
        return blocks

    return quantize


@pytest.mark.parametrize("name", K_TYPES)
def test_k_types_are_at_least_as_near_as_those_of_llama_cpp_were(name):
    for kind, reference in zip(KINDS, LLAMA_CPP[name], strict=True):
        weight = weights(kind)
        size = weight.double().square().mean().item()
        ours = error(by_name(name), encode_blocks(by_name(name), weight), weight) / size
        assert ours**0.5 < reference, kind


@pytest.mark.parametrize("name", K_TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_k_types_are_at_least_as_near_as_those_of_llama_cpp(name, kind, llama_cpp):
    type, weight = by_name(name), weights(kind)
    ours, reference = (error(type, f(type, weight), weight) for f in (encode_blocks, llama_cpp))
    assert ours <= reference


@pytest.mark.parametrize("name", K_TYPES)
def test_rounding_to_a_k_type_twice_adds_little(name):
    type, weight = by_name(name), normal(64, 1024) * 0.02
    blocks = encode_blocks(type, weight)
    once = decode_blocks(type, blocks)
    assert error(type, encode_blocks(type, once), once) < error(type, blocks, weight) / 25


REPACKED = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0"]


@pytest.mark.parametrize("name", REPACKED)
def test_codes_of_a_file_become_the_same_bytes(name):
    blocks = encode_blocks(by_name(name), normal(600, 1024))
    packed = codes_of(by_name(name), blocks, torch.bfloat16)
    assert packed is not None
    assert torch.equal(encode_codes(by_name(name), packed), blocks)


def same_matrix(name: str, packed: QuantTensor) -> bool:
    blocks = encode_codes(by_name(name), packed)
    assert blocks is not None
    values = decode_blocks(by_name(name), blocks)
    return torch.equal(values.to(packed.dtype), decode(packed))


def ternary(group: int) -> QuantTensor:
    weight = normal(30, 1024)
    scales = normal(30, 1024 // group, seed=1).abs().bfloat16().repeat_interleave(group, dim=1)
    return pack((weight.sign() * (weight.abs() > 0.4)).bfloat16() * scales, group)


@pytest.mark.parametrize("group", [256, 512, 1024])
@pytest.mark.parametrize("name", REPACKED)
def test_ternary_matrices_keep_their_codes_in_every_type(name, group):
    assert same_matrix(name, ternary(group))


def test_smaller_groups_keep_theirs_where_a_block_has_one_scale():
    packed = ternary(32)
    assert encode_codes(by_name("TQ2_0"), packed) is None
    assert same_matrix("Q4_0", packed)
    shared = packed.scales[:, ::8].repeat_interleave(8, dim=1)
    packed = QuantTensor(packed.codes, shared, None, packed.scheme)
    assert same_matrix("TQ2_0", packed)
    # A group of zeros has no scale of its own to keep.
    codes = packed.codes.clone()
    codes[:, :8] = 0b10101010
    scales = packed.scales.clone()
    scales[:, 0] = 0
    assert same_matrix("TQ1_0", QuantTensor(codes, scales, None, packed.scheme))


@pytest.mark.parametrize(("bits", "name"), [(4, "Q4_0"), (4, "Q5_0"), (8, "Q8_0"), (4, "Q8_0"), (4, "Q4_1")])
def test_rounded_matrices_keep_their_codes(bits, name):
    assert same_matrix(name, round_to(normal(30, 1024).bfloat16(), bits))


def test_zeros_are_minima_where_the_type_has_them():
    codes = torch.arange(32, dtype=torch.uint8).view(1, 32) % 16
    scheme = Scheme(bits=4, group=32, symmetric=False)
    scales, zeros = torch.tensor([[0.5]]), torch.tensor([[3.0]])
    packed = QuantTensor(pack_codes(codes, 4), scales, zeros, scheme)
    assert same_matrix("Q4_1", packed)
    assert same_matrix("Q5_0", packed)
    assert encode_codes(by_name("Q4_0"), packed) is None
    offset = QuantTensor(pack_codes(codes, 4), scales, None, scheme, offsets=torch.tensor([[-7.25]]))
    assert same_matrix("Q4_1", offset)
    assert encode_codes(by_name("Q8_0"), offset) is None


def test_what_has_no_such_grid_is_not_repacked():
    packed = round_to(normal(4, 512), 4)
    assert encode_codes(by_name("Q4_0"), packed) is None, "a float32 scale is no float16"
    packed = round_to(normal(4, 512).half(), 8)
    for name in ("Q4_0", "TQ2_0", "Q4_K", "F16"):
        assert encode_codes(by_name(name), packed) is None
    narrow = round_to(normal(4, 32).half(), 8)
    assert encode_codes(by_name("TQ2_0"), narrow) is None
    huge = QuantTensor(packed.codes, packed.scales * torch.inf, None, packed.scheme)
    assert encode_codes(by_name("Q8_0"), huge) is None
