"""How rows of heads are passed to the native kernels."""

import torch
from torch import Tensor

HeadRows = tuple[int, bool, int]


def as_rows(x: Tensor) -> Tensor:
    """x [T, H, d] itself where its heads lie side by side in each row, else a copy in which they do.

    What is neither float32 nor bfloat16 becomes float32.
    """
    if x.dtype not in (torch.float32, torch.bfloat16):
        x = x.float()
    side_by_side = x.stride(2) == 1 and (x.shape[1] == 1 or x.stride(1) == x.shape[2])
    return x if side_by_side else x.contiguous()


def head_rows(x: Tensor) -> HeadRows:
    """Address, whether bfloat16, and numbers from token to token of rows [T, H, d] from `as_rows`.

    The kernels read them, or write to them, while the tensor lives.
    """
    return x.data_ptr(), x.dtype == torch.bfloat16, x.stride(0)
