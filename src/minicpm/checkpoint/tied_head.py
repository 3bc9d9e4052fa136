"""Notices an output matrix that would be lost, where a config does not say whether it is tied."""

from collections.abc import Collection

import torch

from minicpm.checkpoint.files import readable, shown
from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.header import TensorInfo
from minicpm.checkpoint.packed_source import PackedSource
from minicpm.config import ModelConfig
from minicpm.errors import WeightMismatch
from minicpm.ops.quant_tensor import plain

_HEAD = "lm_head.weight"
_EMBEDDING = "model.embed_tokens.weight"
_TIED = "tie_word_embeddings"
_CHUNK = 16 << 20


def check_tied_head(checkpoint: Checkpoint, config: ModelConfig, unused: Collection[str]) -> None:
    """Raise WeightMismatch when an unused head differs from the embedding and only our default ties them.

    A config that says `tie_word_embeddings` itself is believed, and nothing is read.
    """
    if not config.tied or config.raw.get(_TIED) is not None:
        return
    stored = checkpoint.stored
    for name in unused:
        head = stored.get(name)
        embedding = stored.get(name.removesuffix(_HEAD) + _EMBEDDING)
        if name.endswith(_HEAD) and head and embedding and not _alike(head, embedding):
            raise WeightMismatch(
                f"{shown(str(checkpoint.path))} holds an output matrix {name} that differs from the "
                f"embedding, and its config.json does not say whether the two are tied. Write {_TIED} false "
                "there to use the matrix, or true to use the embedding."
            )


def _alike(a: TensorInfo | PackedSource, b: TensorInfo | PackedSource) -> bool:
    """Whether two matrices are the same; one in codes is not the same as a plain one."""
    if isinstance(a, TensorInfo) and isinstance(b, TensorInfo):
        return _same(a, b)
    if isinstance(a, TensorInfo) or isinstance(b, TensorInfo) or a.shape != b.shape:
        return False
    one, other = (source.read(torch.float32) for source in (a, b))
    return torch.equal(plain(one), plain(other))


def _same(a: TensorInfo, b: TensorInfo) -> bool:
    """Whether two tensors are stored as the same bytes."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    with readable(a.file), a.file.open("rb") as one, readable(b.file), b.file.open("rb") as other:
        one.seek(a.offset)
        other.seek(b.offset)
        sizes = (min(_CHUNK, a.nbytes - start) for start in range(0, a.nbytes, _CHUNK))
        return all(one.read(size) == other.read(size) for size in sizes)
