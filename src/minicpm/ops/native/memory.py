"""Large tensors in large pages of memory, and memory that others have done with."""

import ctypes
import sys
from math import prod

import torch
from torch import Tensor

from minicpm.ops.native import module

_LARGE = 2 << 20  # bytes of a large page


def zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor of zeros on the CPU that takes memory only where it is written, in pages of 2 MiB if large."""
    nbytes = prod(shape) * dtype.itemsize
    native = module()
    if native is None or nbytes < _LARGE:
        return torch.zeros(shape, dtype=dtype)
    arena = native.Arena()
    memory = (ctypes.c_uint8 * nbytes).from_address(arena.take(nbytes))
    memory.arena = arena  # lives as long as the tensor, which holds on to what it was made from
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def give_back() -> None:
    """Let the system have what this process has freed, where its allocator (glibc's) would keep it for later.

    Weights come to lie in an arena, and the tensors that they came in are never needed again.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)
