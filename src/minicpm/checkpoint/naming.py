"""Tensor names of files that leave out the prefix under which a model holds its trunk."""

from collections.abc import Collection
from dataclasses import replace

from minicpm.checkpoint.folder import Checkpoint

_PREFIX = "model."


def with_prefix(checkpoint: Checkpoint, needed: Collection[str]) -> Checkpoint:
    """The checkpoint with "model." before every name that the model needs so and its files leave bare.

    Files saved from the trunk alone leave it out everywhere; where a name has it, nothing is changed.
    """
    if any(name.startswith(_PREFIX) for name in checkpoint.tensors):
        return checkpoint
    named = {
        _PREFIX + name if _PREFIX + name in needed else name: info
        for name, info in checkpoint.tensors.items()
    }
    return replace(checkpoint, tensors=named)
