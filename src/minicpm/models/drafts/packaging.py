"""Under which names files hold a draft: the same tensors are published in more than one packaging."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Packaging:
    """A published layout: names here begin with `ours` where the file has `theirs`, the first match counting.

    `mark` begins a name that only this layout has. `ignored` are tensors that the target has already or that
    nothing uses, `whole` those that hold integers.
    """

    title: str
    kind: str
    mark: str
    renames: tuple[tuple[str, str], ...] = ()
    ignored: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()

    def published(self, name: str) -> str:
        """What the file calls a parameter of the draft."""
        for ours, theirs in self.renames:
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
        return name


EAGLE2, EAGLE3 = "EAGLE-2", "EAGLE-3"

PACKAGINGS = (
    Packaging(
        "EAGLE-2 as vLLM reads it",
        EAGLE2,
        mark="model.eagle_layers.",
        renames=(("layers.", "model.eagle_layers."), ("", "model.")),
        ignored=frozenset({"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}),
    ),
    Packaging(
        "EAGLE-3",
        EAGLE3,
        mark="midlayer.",
        ignored=frozenset({"embed_tokens.weight", "t2d"}),
        whole=frozenset({"d2t"}),
    ),
    Packaging(
        "EAGLE-2 as CPM.cu reads it", EAGLE2, mark="layers.0.", ignored=frozenset({"embed_tokens.weight"})
    ),
)


def recognised(names: Iterable[str]) -> Packaging | None:
    """The packaging whose mark some name bears; None when there is none."""
    every = list(names)
    return next((p for p in PACKAGINGS if any(name.startswith(p.mark) for name in every)), None)
