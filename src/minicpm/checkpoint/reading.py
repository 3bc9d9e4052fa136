"""Brings bytes of tensors from files into memory, straight into their destination where possible."""

import torch
from torch import Tensor

from minicpm.checkpoint.files import readable, shown
from minicpm.checkpoint.header import TensorInfo
from minicpm.checkpoint.row_order import from_pairs
from minicpm.errors import TruncatedFile

TORCH_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


def read_tensor(info: TensorInfo) -> Tensor:
    """A new CPU tensor as stored.

    The file is read, not mapped: mapped pages of a whole shard would stay resident beside the copy.
    """
    out = torch.empty(info.shape, dtype=TORCH_DTYPES[info.dtype])
    read_into(out, info)
    return out


def read_into(out: Tensor, info: TensorInfo) -> None:
    """Fill a contiguous CPU tensor of the stored dtype and shape; TruncatedFile when the file has changed.

    Rows that lie in pairs are put into their published order, which takes a second tensor for a moment.
    """
    assert out.is_contiguous()
    assert out.nbytes == info.nbytes
    if info.nbytes == 0:
        return
    buffer = as_buffer(out)
    with readable(info.file), info.file.open("rb", buffering=0) as file:
        file.seek(info.offset)
        filled = 0
        while filled < info.nbytes:
            count = file.readinto(buffer[filled:])
            if not count:
                raise TruncatedFile(
                    f"{shown(str(info.file))} ended at byte {info.offset + filled} while it was being read, "
                    f"where {info.offset + info.nbytes} are needed. It changed after it was opened; start "
                    "again."
                )
            filled += count
    if info.paired is not None:
        out.copy_(from_pairs(out, info.paired))


def as_buffer(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without a copy."""
    return tensor.detach().view(-1).view(torch.uint8).numpy().data
