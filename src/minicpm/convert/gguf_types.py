"""Which type each tensor of a GGUF file gets, as llama.cpp chooses (its src/llama-quant.cpp)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from minicpm.checkpoint.files import shown
from minicpm.checkpoint.gguf.types import BlockType, by_name
from minicpm.errors import BadInput

_FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_EIGHT_EXPERTS = 8


@dataclass(frozen=True, slots=True)
class FileType:
    """A choice of types: `number` is its general.file_type, `main` the type of most matrices.

    `mixed` ones give values and down projections of some layers more bits. `ternary` ones hold ternary
    matrices exactly, and others not at all.
    """

    name: str
    number: int
    main: str
    mixed: bool = False
    ternary: bool = False

    @property
    def plain(self) -> bool:
        """True when nothing is rounded to a grid."""
        return self.main in ("F32", "F16", "BF16")


# Numbers: llama_ftype in include/llama.h.
FILE_TYPES: Mapping[str, FileType] = MappingProxyType({
    kind.name: kind
    for kind in (
        FileType("F32", 0, "F32"),
        FileType("F16", 1, "F16"),
        FileType("BF16", 32, "BF16"),
        FileType("Q8_0", 7, "Q8_0"),
        FileType("Q6_K", 18, "Q6_K"),
        FileType("Q5_K_M", 17, "Q5_K", mixed=True),
        FileType("Q4_K_M", 15, "Q4_K", mixed=True),
        FileType("Q4_0", 2, "Q4_0"),
        FileType("TQ2_0", 37, "TQ2_0", ternary=True),
        FileType("TQ1_0", 36, "TQ1_0", ternary=True),
    )
})  # fmt: skip


def file_type(name: str) -> FileType:
    """The choice of this name, in any case; BadInput, listing all, for any other."""
    if name.upper() not in FILE_TYPES:
        raise BadInput(
            f"{shown(repr(name))} is asked for as the type of a GGUF file, and it is not written here. Use "
            f"one of {', '.join(FILE_TYPES)}."
        )
    return FILE_TYPES[name.upper()]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Chooses types for a model of so many layers and experts, whose head is tied or not."""

    kind: FileType
    layers: int
    experts: int
    tied: bool

    def type_of(self, name: str, columns: int, rank: int = 2) -> BlockType:
        """The type of a tensor by its name in the file, with rows of so many weights.

        Lists and routers stay in float32. Rows that the chosen blocks do not divide get smaller blocks, or
        float16; BadInput where a ternary type has none.
        """
        stem = name.removesuffix(".weight")
        if rank == 1 or stem.endswith("ffn_gate_inp"):
            return by_name("F32")
        wanted = self.kind.main if self.kind.plain else self._quantized(stem, columns)
        return _dividing(by_name(wanted), columns, name)

    def _quantized(self, stem: str, columns: int) -> str:
        main = self.kind.main
        if stem == "output" or (stem == "token_embd" and self.tied):
            divides = columns % by_name(main).block == 0
            return "Q6_K" if divides and main != "Q8_0" else "Q8_0"
        if stem == "token_embd":
            return "Q4_K" if self.kind.ternary else main
        _, layer, part = stem.split(".")[:3]
        return self._in_layer(part.removesuffix("_exps"), int(layer))

    def _in_layer(self, part: str, layer: int) -> str:
        if self.experts == _EIGHT_EXPERTS and part in ("attn_k", "attn_v"):
            return "Q8_0"
        if self.experts == _EIGHT_EXPERTS and part == "attn_output" and self.kind.name == "Q4_K_M":
            return "Q5_K"
        wide = part in ("attn_v", "attn_kv_b", "ffn_down") and self.kind.mixed and self._more_bits(layer)
        return "Q6_K" if wide else self.kind.main

    def _more_bits(self, layer: int) -> bool:
        """The first and last eighth of the layers, and every third between them."""
        eighth = self.layers // 8
        return layer < eighth or layer >= 7 * self.layers // 8 or (layer - eighth) % 3 == 2


def _dividing(type: BlockType, columns: int, name: str) -> BlockType:
    if columns % type.block == 0:
        return type
    if type.name.startswith("TQ"):
        raise BadInput(
            f"{name} has rows of {columns} weights, and {type.name} holds {type.block} at a time. Use "
            f"--type Q8_0, or F16."
        )
    smaller = by_name(_FALLBACKS.get(type.name, "F16"))
    return smaller if columns % smaller.block == 0 else by_name("F16")
