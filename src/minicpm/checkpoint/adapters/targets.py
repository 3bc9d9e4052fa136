"""Which projections an adapter names. Regular expressions of a file are never run, only recognised."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

Match = Callable[[str], bool]

ALL_LINEAR = "all-linear"


@dataclass(frozen=True, slots=True)
class Targets:
    """The projections that `chosen` accepts, without the `excluded`, in these layers (all when None).

    `chosen` None leaves the choice to the names in the file.
    """

    chosen: Match | None
    excluded: Match
    layers: frozenset[int] | None

    def accepts(self, name: str) -> bool:
        """True for the full name of a projection that the adapter has."""
        if self.chosen is None or not self.chosen(name) or self.excluded(name):
            return False
        return self.layers is None or layer_of(name) in self.layers


def by_suffix(*names: str) -> Match:
    """Accepts a module of one of these names, or below which path ever: `q_proj`, `self_attn.q_proj`."""
    endings = tuple(f".{name}" for name in names)
    return lambda full: full in names or full.endswith(endings)


def everything(_: str) -> bool:
    """Accepts every projection."""
    return True


def nothing(_: str) -> bool:
    """Accepts none."""
    return False


def by_pattern(text: str) -> Match | None:
    """What a regular expression of the common forms accepts; None for any other, which is not run.

    The forms are a suffix, after `.*` or nothing, that may end in alternatives: `.*q_proj`,
    `.*\\.self_attn\\.(q_proj|v_proj)`.
    """
    body = text.removeprefix("^").removesuffix("$").replace("\\.", ".")
    anywhere = body.startswith(".*") and not body.startswith(".*.")
    names = _alternatives(body.removeprefix(".*").removeprefix("."))
    if not all(map(is_plain, names)):
        return None
    return (lambda full: full.endswith(tuple(names))) if anywhere else by_suffix(*names)


def is_plain(name: str) -> bool:
    """True for a path of module names joined by dots."""
    return all(part.replace("_", "a").isalnum() and part.isascii() for part in name.split("."))


def layer_of(name: str) -> int | None:
    """The number of the layer a projection belongs to."""
    parts = name.split(".")
    numbers = [after for before, after in pairwise(parts) if before == "layers"]
    return int(numbers[0]) if numbers and numbers[0].isdecimal() else None


def _alternatives(body: str) -> list[str]:
    head, opened, rest = body.partition("(")
    if not opened:
        return [body]
    return [head + option for option in rest.removesuffix(")").removeprefix("?:").split("|")]
