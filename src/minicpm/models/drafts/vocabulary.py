"""The tokens a draft can guess, where they are fewer than its target knows."""

from collections.abc import Collection

import torch
from torch import Tensor

from minicpm.errors import BadParameter


class Vocabulary:
    """ids [N] int64: the target's token id of each of the draft's logits."""

    def __init__(self, ids: Tensor, *, size: int) -> None:
        """Raises BadParameter unless all ids are different and below `size`, the target's."""
        if problems := _problems(ids, size):
            raise BadParameter(f"The draft's vocabulary cannot be used: {'; '.join(problems)}.")
        self.ids = ids

    @classmethod
    def frequent(cls, ids: Tensor, *, size: int, ends: Collection[int]) -> "Vocabulary":
        """Frequent tokens, by rank (FR-Spec, arXiv 2502.14856), among them all that end a text."""
        vocabulary = cls(ids.to(torch.int64), size=size)
        missing = sorted(set(ends) - set(vocabulary.ids.tolist()))
        if missing:
            raise BadParameter(
                f"The list of {len(ids):,} frequent tokens lacks {missing}, which end a text, so that no "
                "guess could be an end. Replace its last entries by them."
            )
        return vocabulary

    @classmethod
    def from_offsets(cls, offsets: Tensor, *, size: int) -> "Vocabulary":
        """Where files hold d2t [N], which is target id minus draft id."""
        return cls(torch.arange(len(offsets), device=offsets.device) + offsets.to(torch.int64), size=size)

    def __len__(self) -> int:
        return len(self.ids)

    def to_target(self, guesses: Tensor) -> Tensor:
        """The target's ids of guesses, which are positions in the draft's logits."""
        return self.ids[guesses]


def _problems(ids: Tensor, size: int) -> list[str]:
    if ids.ndim != 1 or len(ids) == 0:
        return [f"a list of token ids is needed, not a shape of {tuple(ids.shape)}"]
    outside = ids[(ids < 0) | (ids >= size)]
    values, counts = torch.unique(ids, return_counts=True)
    twice = values[counts > 1]
    problems = []
    if len(outside):
        problems.append(f"{len(outside)} ids are outside 0 to {size - 1}, such as {int(outside[0])}")
    if len(twice):
        problems.append(f"{len(twice)} ids appear more than once, such as {int(twice[0])}")
    return problems
