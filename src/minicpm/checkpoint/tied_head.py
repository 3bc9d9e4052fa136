"""Notices an output matrix that would be lost, where a config does not say whether it is tied."""

from collections.abc import Collection

from minicpm.checkpoint.files import readable, shown
from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.header import TensorInfo
from minicpm.config import ModelConfig
from minicpm.errors import WeightMismatch

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
    for name in unused:
        head = checkpoint.tensors.get(name)
        embedding = checkpoint.tensors.get(name.removesuffix(_HEAD) + _EMBEDDING)
        if name.endswith(_HEAD) and head and embedding and not _same(head, embedding):
            raise WeightMismatch(
                f"{shown(str(checkpoint.path))} holds an output matrix {name} that differs from the "
                f"embedding, and its config.json does not say whether the two are tied. Write {_TIED} false "
                "there to use the matrix, or true to use the embedding."
            )


def _same(a: TensorInfo, b: TensorInfo) -> bool:
    """Whether two tensors are stored as the same bytes."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    with readable(a.file), a.file.open("rb") as one, readable(b.file), b.file.open("rb") as other:
        one.seek(a.offset)
        other.seek(b.offset)
        sizes = (min(_CHUNK, a.nbytes - start) for start in range(0, a.nbytes, _CHUNK))
        return all(one.read(size) == other.read(size) for size in sizes)
