"""Rounds the number of rows of a matrix product up, so that a row's result does not depend on its company."""

import torch
from torch import Tensor
from torch.nn.functional import pad

# float32 products on a CPU sum a row in one order from some number of rows on, in multiples of it, and in
# another for fewer or odd ones: 4 on processors of AMD, 16 on those of Intel. There, with several threads,
# products of more than a thousand inputs still differ up to 128 rows. bfloat16 products do not differ.
_FLOAT32_ROWS = 16


def row_multiple(dtype: torch.dtype, device: torch.device) -> int:
    """The multiple of rows that makes products in `dtype` independent of how many rows there are."""
    return _FLOAT32_ROWS if dtype == torch.float32 and device.type == "cpu" else 1


def pad_rows(x: Tensor, multiple: int) -> Tensor:
    """x [T, D] with zero rows appended up to a multiple of rows."""
    return pad_to(x, x.shape[0] + -x.shape[0] % multiple)


def pad_to(x: Tensor, rows: int) -> Tensor:
    """x [T, D] with zero rows appended up to `rows`; x itself when it has as many."""
    return pad(x, (0, 0, 0, rows - x.shape[0])) if x.shape[0] < rows else x
