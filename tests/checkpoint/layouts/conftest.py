"""Toy checkpoints quantized in every layout, each beside a plain twin of the same numbers."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from minicpm.checkpoint import open_checkpoint
from minicpm.checkpoint.layouts import awq, gptq, marlin, mlx, own
from minicpm.ops.quant_tensor import QuantTensor, Scheme, decode, pack_codes
from minicpm.testing import tiny_checkpoint

SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 8, "num_key_value_heads": 4}
JOINED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def random_matrix(
    outputs: int,
    inputs: int,
    bits: int,
    group: int,
    *,
    symmetric: bool = True,
    offsets: bool = False,
    dtype: torch.dtype = torch.float16,
    seed: int = 0,
) -> QuantTensor:
    """Random codes and scales; zeros from 1 on, as the first version of GPTQ can say them."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (outputs, inputs), generator=generator)
    shape = (outputs, inputs // group)
    scales = (0.5 + torch.rand(shape, generator=generator)) * 2.0 ** (1 - bits) / inputs**0.5
    zeros = torch.randint(1, 2**bits, shape, generator=generator).to(torch.uint8)
    scheme = Scheme(bits, group, symmetric and not offsets)
    held = scales.to(dtype)
    beside = (-(2.0 ** (bits - 1)) * held.float()).to(dtype) if offsets else None
    return QuantTensor(
        pack_codes(codes, bits), held, None if symmetric or offsets else zeros, scheme, beside, torch.bfloat16
    )


class Pair(NamedTuple):
    """A quantized folder, the plain one of the same numbers, and its matrices."""

    quantized: Path
    plain: Path
    matrices: dict[str, QuantTensor]


def gptq_tensors(module: str, weight: QuantTensor, missing: int = gptq.V1) -> Iterator[tuple[str, Tensor]]:
    held = gptq.pack(weight, missing=missing)._asdict()
    yield from ((f"{module}.{part}", tensor) for part, tensor in held.items())


def awq_tensors(module: str, weight: QuantTensor) -> Iterator[tuple[str, Tensor]]:
    yield from ((f"{module}.{part}", tensor) for part, tensor in awq.pack(weight)._asdict().items())


def mlx_tensors(module: str, weight: QuantTensor) -> Iterator[tuple[str, Tensor]]:
    yield from ((f"{module}.{part}", tensor) for part, tensor in mlx.pack(weight)._asdict().items())


def marlin_tensors(module: str, weight: QuantTensor) -> Iterator[tuple[str, Tensor]]:
    held = marlin.pack(weight)
    yield from ((f"{module}.B", held.qweight), (f"{module}.s", held.scales))


def write(folder: Path, tensors: dict[str, Tensor], config: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def matrix() -> Callable[..., QuantTensor]:
    return random_matrix


@pytest.fixture(scope="session")
def folder_of() -> Callable[..., Path]:
    return write


Says = Callable[[str, QuantTensor], Iterator[tuple[str, Tensor]]]


def fused(matrices: dict[str, QuantTensor]) -> Iterator[tuple[str, Tensor]]:
    """As CPM.cu names them: those of one input side by side."""
    from minicpm.ops.quant_tensor import joined

    above = sorted({name.rpartition(".")[0] for name in matrices})
    for parent in above:
        own_names = [n for n in matrices if n.rpartition(".")[0] == parent]
        groups = {new: [f"{parent}.{n}" for n in names] for new, names in JOINED.items()}
        groups = {new: names for new, names in groups.items() if names[0] in own_names}
        taken = {name for names in groups.values() for name in names}
        alone = {name.rpartition(".")[2]: [name] for name in own_names if name not in taken}
        for new, names in (groups | alone).items():
            held = marlin.pack(joined([matrices[name] for name in names]))
            yield f"{parent}.{new}.qweight", held.qweight
            yield f"{parent}.{new}.scales", held.scales


class Layout(NamedTuple):
    """How a toy is quantized, and what config.json says of it."""

    settings: dict
    scheme: dict
    says: Says | None
    key: str = "quantization_config"
    everything: bool = False


def _gptq(bits: int, group: int, *, symmetric: bool = True, version: str = "gptq") -> Layout:
    settings = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group,
        "sym": symmetric,
        "desc_act": False,
        "checkpoint_format": version,
    }
    missing = gptq.V1 if version == "gptq" else gptq.V2
    return Layout(
        settings,
        {"bits": bits, "group": group, "symmetric": symmetric},
        lambda module, weight: gptq_tensors(module, weight, missing),
    )


LAYOUTS = {
    "gptq 4": _gptq(4, 64),
    "gptq 4 rows": _gptq(4, -1),
    "gptq 8": _gptq(8, 32),
    "gptq 3": _gptq(3, 64),
    "gptq 2 asymmetric": _gptq(2, 32, symmetric=False),
    "gptq v2 asymmetric": _gptq(4, 32, symmetric=False, version="gptq_v2"),
    "awq": Layout(
        {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"},
        {"bits": 4, "group": 64, "symmetric": False},
        awq_tensors,
    ),
    "marlin": Layout(
        {"quant_method": "marlin", "bits": 4, "group_size": 64},
        {"bits": 4, "group": 64},
        marlin_tensors,
    ),
    "cpm.cu": Layout(
        {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True, "checkpoint_format": "marlin"},
        {"bits": 4, "group": 64},
        None,
    ),
    "cpm.cu columns": Layout(
        {"quant_method": "gptq", "bits": 4, "group_size": -1, "sym": True}, {"bits": 4, "group": -1}, None
    ),
    "mlx 4": Layout(
        {"group_size": 64, "bits": 4},
        {"bits": 4, "group": 64, "offsets": True, "dtype": torch.bfloat16},
        mlx_tensors,
        key="quantization",
        everything=True,
    ),
    "mlx 3": Layout(
        {"group_size": 32, "bits": 3},
        {"bits": 3, "group": 32, "offsets": True, "dtype": torch.bfloat16},
        mlx_tensors,
        key="quantization",
        everything=True,
    ),
    "own": Layout(
        {
            "quant_method": "minicpm",
            "format": 1,
            "default": {"bits": 4, "group": 32, "symmetric": False},
        },
        {"bits": 4, "group": 32, "symmetric": False},
        own.pack,
        everything=True,
    ),
}


def quantize(layout: Layout, target: Path, *, seed: int = 0, **changes) -> Pair:
    """A toy MiniCPM4 of random codes in a layout, and its plain twin."""
    base = open_checkpoint(
        tiny_checkpoint("minicpm4-0.5b", target / "base", dtype="bfloat16", **SIZES | changes)
    )
    matrices, plain, tensors = {}, {}, {}
    for number, name in enumerate(sorted(base.tensors)):
        tensor, module = base.read(name), name.removesuffix(".weight")
        if tensor.ndim == 2 and (".layers." in name or layout.everything):
            said = dict(layout.scheme)
            group = said.pop("group")
            group = tensor.shape[1] if group == -1 else group
            matrices[module] = random_matrix(*tensor.shape, group=group, seed=seed + number, **said)
            plain[name] = decode(matrices[module])
        else:
            plain[name] = tensors[name] = tensor
    if layout.says is None:
        tensors |= dict(fused(matrices))
    else:
        for module, weight in matrices.items():
            tensors |= dict(layout.says(module, weight))
    config = dict(base.raw_config)
    quantized = write(target / "quantized", tensors, config | {layout.key: layout.settings})
    return Pair(quantized, write(target / "plain", plain, config), matrices)


@pytest.fixture(scope="session")
def layouts() -> dict[str, Layout]:
    return LAYOUTS


@pytest.fixture(scope="session", params=LAYOUTS)
def pair(request, tmp_path_factory) -> Pair:
    """A toy in each layout."""
    return quantize(LAYOUTS[request.param], tmp_path_factory.mktemp("pair"))


@pytest.fixture
def make(tmp_path) -> Callable[..., Pair]:
    """Makes a toy in the layout of this name."""
    return lambda name, **changes: quantize(LAYOUTS[name], tmp_path / "made", **changes)
