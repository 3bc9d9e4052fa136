"""Between padded batches and the packed tokens the decoder computes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from minicpm.errors import BadParameter


@dataclass(frozen=True, slots=True)
class Packing:
    """Which tokens of a padded batch are real: `real` [B, T] bool, and how many in each row."""

    real: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of(cls, real: Tensor) -> "Packing":
        """For a mask [B, T] bool; raises BadParameter when no token is real."""
        counts = tuple(real.sum(dim=1).tolist())
        if not any(counts):
            raise BadParameter(
                f"The batch of shape {list(real.shape)} has no token to compute: its attention_mask is all "
                "zeros, or it is empty. Give every forward at least one token."
            )
        return cls(real, counts)

    @property
    def dense(self) -> bool:
        """True when nothing is padding."""
        return sum(self.counts) == self.real.numel()

    def pack(self, padded: Tensor) -> Tensor:
        """[B, T, ...] to [n, ...], the real tokens row after row."""
        return padded.flatten(0, 1) if self.dense else padded[self.real]

    def unpack(self, packed: Tensor) -> Tensor:
        """[n, ...] to [B, T, ...], with zeros for padding."""
        shape = (*self.real.shape, *packed.shape[1:])
        if self.dense:
            return packed.reshape(shape)
        return packed.new_zeros(shape).index_put((self.real,), packed)


def real_tokens(attention_mask: Tensor | None, tokens: Tensor, past: Tensor | None) -> Tensor:
    """Which of `tokens` [B, T, ...] are real, [B, T] bool, by an attention_mask [B, C + T].

    `past` [B, C] says it for the tokens the cache holds, and the mask may not say otherwise. Raises
    BadParameter for a mask of another shape, or one that contradicts the cache.
    """
    rows, count = tokens.shape[:2]
    held = 0 if past is None else past.shape[1]
    if attention_mask is None:
        return torch.ones((rows, count), dtype=torch.bool, device=tokens.device)
    if tuple(attention_mask.shape) != (rows, held + count):
        raise BadParameter(
            f"attention_mask has the shape {list(attention_mask.shape)}, where [{rows}, {held + count}] is "
            f"needed: one value for each of {held} cached and {count} new tokens of {rows} rows. Masks of "
            "other shapes are not supported; separate sequences in one row by position_ids that start at 0."
        )
    real = attention_mask.to(tokens.device).bool()
    if past is not None and not torch.equal(real[:, :held], past):
        raise BadParameter(
            f"attention_mask says otherwise of the {held} cached tokens than it did when they were computed. "
            "Keep its columns and append one for each new token."
        )
    return real[:, held:]
