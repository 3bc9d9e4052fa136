"""The types of weights in GGUF files: how many weights a block holds in how many bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from minicpm.checkpoint.files import shown
from minicpm.errors import BadInput


@dataclass(frozen=True, slots=True)
class BlockType:
    """`block` consecutive weights of a row lie in `nbytes` bytes; `number` is what a file calls the type."""

    name: str
    number: int
    block: int
    nbytes: int

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row; the block must divide it."""
        assert columns % self.block == 0, f"{columns} columns are not blocks of {self.block}"
        return columns // self.block * self.nbytes

    @property
    def bits_per_weight(self) -> float:
        """Scales included."""
        return 8 * self.nbytes / self.block


# Number, weights and bytes of a block: ggml's ggml_type and its type traits.
_SUPPORTED = (
    BlockType("F32", 0, 1, 4),
    BlockType("F16", 1, 1, 2),
    BlockType("Q4_0", 2, 32, 18),
    BlockType("Q4_1", 3, 32, 20),
    BlockType("Q5_0", 6, 32, 22),
    BlockType("Q5_1", 7, 32, 24),
    BlockType("Q8_0", 8, 32, 34),
    BlockType("Q2_K", 10, 256, 84),
    BlockType("Q3_K", 11, 256, 110),
    BlockType("Q4_K", 12, 256, 144),
    BlockType("Q5_K", 13, 256, 176),
    BlockType("Q6_K", 14, 256, 210),
    BlockType("BF16", 30, 1, 2),
    BlockType("TQ1_0", 34, 256, 54),
    BlockType("TQ2_0", 35, 256, 66),
)
BLOCK_TYPES: Mapping[int, BlockType] = MappingProxyType({type.number: type for type in _SUPPORTED})
"""Every type that is read and written here, by its number."""

OTHER_TYPES: Mapping[int, str] = MappingProxyType({
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64",
    28: "F64", 29: "IQ1_M", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
})  # fmt: skip
"""Names of types that exist and are not supported, so that an error can say which it met."""

_BY_NAME = {type.name: type for type in _SUPPORTED}


def by_name(name: str) -> BlockType:
    """The type of this name, as "Q4_K"; BadInput, listing all, for any other name."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    state = "which is not supported" if name in OTHER_TYPES.values() else "which does not exist"
    raise BadInput(
        f"{shown(repr(name))} is asked for as the type of weights in GGUF, {state}. Use one of "
        f"{', '.join(sorted(_BY_NAME))}."
    )
