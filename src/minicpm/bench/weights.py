"""The formats that weights are measured in, and what the matrices of a model take in each."""

from dataclasses import dataclass
from math import gcd
from typing import Literal

from torch import nn

from minicpm.checkpoint.building import blank
from minicpm.checkpoint.rounded import rounded_parts
from minicpm.config import BYTES, ModelConfig, MoE
from minicpm.config.holding import group_of
from minicpm.errors import BadParameter
from minicpm.models.trunk import Trunk
from minicpm.quant.packing import projections

HOLDING: dict[str, Literal["plain", "int8", "int4", "ternary"]] = {
    "bf16": "plain",
    "int8": "int8",
    "int4": "int4",
    "ternary": "ternary",
}
"""The formats by their names here, and what loading calls them."""
TERNARY_BITS, _TERNARY_GROUP = 2, 128
_EXPERTS = ".experts."


def check_format(weights: str) -> None:
    """Raise BadParameter, listing the known ones, for anything but a format of weights."""
    if weights not in HOLDING:
        raise BadParameter(f"The weights {weights!r} are not known. Use one of: {', '.join(HOLDING)}.")


def held_bits(model: Trunk, weights: str) -> dict[str, int]:
    """The bits of every module whose matrix is held in codes, by its name, as when a checkpoint is loaded."""
    if weights == "bf16":
        return {}
    rounded = rounded_parts(model, weights)
    return rounded | dict.fromkeys(projections(model), TERNARY_BITS) if weights == "ternary" else rounded


def code_group(columns: int, bits: int) -> int:
    """Columns per scale."""
    group = gcd(columns, _TERNARY_GROUP) if bits == TERNARY_BITS else group_of(columns, bits)
    assert group is not None, "a matrix without a group is not held in codes"
    return group


@dataclass(frozen=True, slots=True)
class Matrices:
    """How many weights some matrices have, and their bytes."""

    count: int = 0
    nbytes: int = 0

    def __add__(self, other: "Matrices") -> "Matrices":
        return Matrices(self.count + other.count, self.nbytes + other.nbytes)


@dataclass(frozen=True, slots=True)
class Footprint:
    """The matrices of a model: of every token, of experts, the head, and an embedding beside it."""

    shared: Matrices
    experts: Matrices
    head: Matrices
    embedding: Matrices

    @property
    def nbytes(self) -> int:
        """Of all."""
        return (self.shared + self.experts + self.head + self.embedding).nbytes


def footprint(config: ModelConfig, weights: str) -> Footprint:
    """What the matrices of a model take in that format; nothing is allocated."""
    model = blank(config)
    bits = held_bits(model, weights)
    parts = {"shared": Matrices(), "experts": Matrices(), "head": Matrices(), "embedding": Matrices()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            parts[_part(name, config)] += _matrices(module, bits.get(name))
    return Footprint(**parts)


def _part(name: str, config: ModelConfig) -> str:
    if name.endswith("embed_tokens"):
        return "head" if config.tied else "embedding"
    if name.endswith("lm_head"):
        return "head"
    return "experts" if _EXPERTS in name else "shared"


def _matrices(module: nn.Linear | nn.Embedding, bits: int | None) -> Matrices:
    rows, columns = module.weight.shape
    width = BYTES["bfloat16"]
    if bits is None:
        return Matrices(rows * columns, rows * columns * width)
    scales = columns // code_group(columns, bits)
    return Matrices(rows * columns, rows * (-(-columns * bits // 8) + scales * width))


def experts_used(config: ModelConfig, tokens: int) -> tuple[float, float]:
    """The shares of all experts that one token uses, and that so many do if all are equally likely."""
    for layer in config.layers:
        if isinstance(layer.ffn, MoE):
            own = layer.ffn.chosen / layer.ffn.experts
            return own, 1 - (1 - own) ** tokens
    return 0.0, 0.0
