"""Tensor names of files that leave out the prefix under which a model holds its trunk."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import chain
from typing import TypeVar

from minicpm.checkpoint.folder import Checkpoint

_PREFIX = "model."
_T = TypeVar("_T")


def with_prefix(checkpoint: Checkpoint, needed: Collection[str]) -> Checkpoint:
    """The checkpoint with "model." before every name that the model needs so and its files leave bare.

    Files saved from the trunk alone leave it out everywhere; where a name has it, nothing is changed.
    """
    if any(name.startswith(_PREFIX) for name in chain(checkpoint.tensors, checkpoint.packed)):
        return checkpoint
    tensors, packed = _named(checkpoint.tensors, needed), _named(checkpoint.packed, needed)
    return replace(checkpoint, tensors=tensors, packed=packed)


def _named(found: Mapping[str, _T], needed: Collection[str]) -> dict[str, _T]:
    return {_PREFIX + name if _PREFIX + name in needed else name: one for name, one in found.items()}
