"""What is asked of quantizing: a method, bits and groups, by name pattern where they differ."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal

from minicpm.checkpoint.files import listed, shown
from minicpm.config.holding import HEAD_BITS, group_of
from minicpm.errors import BadParameter
from minicpm.quant.grid import Grid

BITS = (8, 4, 3, 2)
GROUPS = (32, 64, 128)
ROW: Literal["row"] = "row"
TERNARY = "ternary"
"""The method that packs what a model was trained to, and rounds nothing."""
HEAD = "lm_head"
"""What patterns may call the matrix that makes logits, also where it is the embedding."""
_DEFAULT_BITS, _DEFAULT_GROUP = 4, 64

Group = int | Literal["row"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the matrices of a model are to be rounded.

    `keep` are patterns of modules that stay as they are, `bits_for` patterns and the bits of what they match,
    of which the last counts. `budget` lets the bits of each matrix of the layers be chosen so that all of
    them together take so many bits per weight, scales included; `bits` then is not given. Patterns are those
    of a shell, over names such as model.layers.0.mlp.down_proj. Raises BadParameter, naming all faults.
    """

    method: str = "gptq"
    bits: int | None = None
    group: Group | None = None
    symmetric: bool = True
    keep: tuple[str, ...] = ()
    bits_for: tuple[tuple[str, int], ...] = ()
    budget: float | None = None

    def __post_init__(self) -> None:
        faults = [
            *_faults_of_bits([self.bits, *(bits for _, bits in self.bits_for)]),
            *_faults_of_group(self.group),
            *_faults_of_budget(self.budget, self.bits),
            *(_faults_of_ternary(self) if self.method == TERNARY else ()),
        ]
        if faults:
            raise BadParameter(" ".join(faults))

    @property
    def columns(self) -> Group:
        """Columns per scale."""
        return self.group or _DEFAULT_GROUP

    @property
    def every_bits(self) -> int:
        """Bits of what no pattern names."""
        return self.bits or _DEFAULT_BITS


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix of a model that can be rounded: outputs and inputs, and whether it makes logits."""

    rows: int
    columns: int
    head: bool = False


def grids_of(recipe: Recipe, matrices: Mapping[str, Matrix]) -> dict[str, Grid]:
    """What each matrix is rounded to by the name of its module; what is kept is left out.

    The head is rounded to 8 bits as loading does, and kept where no group divides it, unless a pattern names
    its bits. Raises BadParameter for patterns that match nothing and groups that divide no row.
    """
    _refuse_unmatched(recipe, matrices)
    named = named_bits(recipe, matrices)
    grids: dict[str, Grid] = {}
    for name, matrix in matrices.items():
        if any(_matches(name, matrix, pattern) for pattern in recipe.keep):
            continue
        if matrix.head and name not in named:
            if (group := group_of(matrix.columns, HEAD_BITS)) is not None:
                grids[name] = Grid(HEAD_BITS, group)
            continue
        group = matrix.columns if recipe.columns == ROW else recipe.columns
        grids[name] = Grid(named.get(name, recipe.every_bits), group, recipe.symmetric or matrix.head)
    if undivided := [name for name, grid in grids.items() if matrices[name].columns % grid.group]:
        raise _undivided(recipe, undivided, matrices)
    if not grids:
        raise BadParameter("Everything is kept, so there is nothing to quantize. Give fewer --keep patterns.")
    return grids


def named_bits(recipe: Recipe, matrices: Mapping[str, Matrix]) -> dict[str, int]:
    """The bits of every matrix that a pattern names."""
    found = {
        name: [bits for pattern, bits in recipe.bits_for if _matches(name, matrix, pattern)]
        for name, matrix in matrices.items()
    }
    return {name: bits[-1] for name, bits in found.items() if bits}


def _matches(name: str, matrix: Matrix, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or (matrix.head and fnmatchcase(HEAD, pattern))


def _refuse_unmatched(recipe: Recipe, matrices: Mapping[str, Matrix]) -> None:
    patterns = [*recipe.keep, *(pattern for pattern, _ in recipe.bits_for)]
    lost = [p for p in patterns if not any(_matches(n, matrix, p) for n, matrix in matrices.items())]
    if lost:
        raise BadParameter(
            f"These patterns match no matrix of the model: {listed(lost)}.{_nearest(lost[0], matrices)} "
            "Patterns are those of a shell over whole names, so *.down_proj names all of them; `lm_head` is "
            "the matrix that makes logits."
        )


def _nearest(pattern: str, names: Collection[str]) -> str:
    ends = {name.rpartition(".")[2] for name in names}
    known = sorted({*names, *(f"*.{end}" for end in ends)})
    near = get_close_matches(
        pattern if "*" in pattern or "." in pattern else f"*.{pattern}", known, n=1, cutoff=0.5
    )
    return f" Did you mean {near[0]!r}?" if near else ""


def _undivided(recipe: Recipe, names: list[str], matrices: Mapping[str, Matrix]) -> BadParameter:
    columns = {name: matrices[name].columns for name in names}
    fitting = [group for group in reversed(GROUPS) if all(width % group == 0 for width in columns.values())]
    use = f"--group {fitting[0]}" if fitting else f"--group {ROW}"
    told = [f"{name} ({width} weights a row)" for name, width in columns.items()]
    return BadParameter(
        f"Groups of {recipe.columns} do not divide the rows of {len(names)} matrices: {listed(told, 6)}. Use "
        f"{use}, or keep them with --keep."
    )


def _faults_of_bits(every: Iterable[int | None]) -> list[str]:
    wrong = sorted({bits for bits in every if bits is not None and bits not in BITS})
    known = ", ".join(map(str, BITS))
    return [f"Matrices are rounded to {known} bits, not to {', '.join(map(str, wrong))}."] if wrong else []


def _faults_of_group(group: Group | None) -> list[str]:
    if group is None or group == ROW or group in GROUPS:
        return []
    known = ", ".join(map(str, GROUPS))
    return [f"Groups of {shown(str(group))} weights are not made. Use {known} or {ROW}."]


def _faults_of_budget(budget: float | None, bits: int | None) -> list[str]:
    if budget is None:
        return []
    if not min(BITS) < budget <= 16:
        return [
            f"A budget of {budget:g} bits per weight cannot be met. Give one above {min(BITS)}, up to 16."
        ]
    given = "Both bits and a budget were given, and a budget chooses the bits. Give one of them."
    return [] if bits is None else [given]


def _faults_of_ternary(recipe: Recipe) -> list[str]:
    faults = []
    if recipe.bits not in (None, 2):
        faults.append(f"Ternary weights take 2 bits, and {recipe.bits} were asked for. Leave --bits out.")
    if recipe.group is not None:
        faults.append("The groups of ternary weights are those they were trained with. Leave --group out.")
    if recipe.budget is not None or not recipe.symmetric:
        faults.append("Ternary weights have neither a budget nor zeros. Leave those options out.")
    return faults
