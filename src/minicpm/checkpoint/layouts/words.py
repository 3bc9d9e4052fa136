"""Between words of 32 bits, as files hold codes, and the bytes that a `QuantTensor` holds."""

import torch
from torch import Tensor

WORD_BITS = 32


def as_bytes(words: Tensor) -> Tensor:
    """Words [n, W] of 32 bits as bytes [n, 4 W], lowest first: one stream of bits per row either way."""
    return words.contiguous().view(torch.uint8)


def as_words(data: Tensor, dtype: torch.dtype = torch.int32) -> Tensor:
    """The inverse, for rows of a multiple of 4 bytes."""
    return data.contiguous().view(dtype)


def centred(zeros: Tensor, bits: int) -> bool:
    """True when every zero is that of a symmetric grid, which then need not be held."""
    return bool((zeros == 2 ** (bits - 1)).all())


def kept_dtype(scales: Tensor, dtype: torch.dtype) -> torch.dtype | None:
    """What a `QuantTensor` is told of the dtype it stands for, beside scales that stay as they are."""
    return None if scales.dtype == dtype else dtype
