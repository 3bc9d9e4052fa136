"""Tells from a few bytes whether a checkpoint's weights may be ternary, without torch."""

import sys
from array import array

from minicpm.checkpoint.files import readable
from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.header import TensorInfo

# Weights that no ternary group is smaller than.
_SAMPLE = 32
# Number formats whose first bit is the sign, and the array type of their width.
_WORDS = {"BF16": "H", "F16": "H", "F32": "I"}


def may_be_ternary(checkpoint: Checkpoint) -> bool:
    """False when the first weights of the first layer's first matrix have several magnitudes beside zero."""
    matrices = [
        info
        for name, info in sorted(checkpoint.tensors.items())
        if ".layers." in name and len(info.shape) == 2 and info.dtype in _WORDS and info.nbytes
    ]
    return bool(matrices) and len(_magnitudes(matrices[0]) - {0}) <= 1


def _magnitudes(info: TensorInfo) -> set[int]:
    """Bits of the first few weights of a row, without their signs."""
    words = array(_WORDS[info.dtype])
    with readable(info.file), info.file.open("rb") as file:
        file.seek(info.offset)
        words.frombytes(file.read(words.itemsize * min(_SAMPLE, info.shape[1])))
    if sys.byteorder == "big":
        words.byteswap()
    unsigned: int = (1 << (8 * words.itemsize - 1)) - 1
    return {word & unsigned for word in words}
