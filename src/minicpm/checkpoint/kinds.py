"""What each kind of model does and how it is opened, for those who open it as another one."""

from typing import TypeVar

from minicpm.checkpoint.files import shown
from minicpm.checkpoint.folder import Checkpoint
from minicpm.errors import WrongKind
from minicpm.models.decoder import Decoder
from minicpm.models.pooled import EmbeddingModel, RerankingModel
from minicpm.models.trunk import Trunk

# What it does, the functions that open it, the commands that use it.
_KINDS: dict[type[Trunk], tuple[str, str, str]] = {
    Decoder: ("writes text", "minicpm.load or minicpm.load_decoder", "`minicpm chat` or `minicpm run`"),
    EmbeddingModel: ("turns texts into vectors", "minicpm.load_embedder", "`minicpm embed`"),
    RerankingModel: ("judges documents by a query", "minicpm.load_reranker", "`minicpm rerank`"),
}

M = TypeVar("M", bound=Trunk)


def require_kind(module: Trunk, kind: type[M], checkpoint: Checkpoint) -> M:
    """The module itself when it is of this kind; WrongKind, which says what opens it, when it is not."""
    if isinstance(module, kind):
        return module
    does, function, command = next(said for known, said in _KINDS.items() if isinstance(module, known))
    raise WrongKind(
        f"{shown(str(checkpoint.path))} holds a model that {does}, and one that {_KINDS[kind][0]} was asked "
        f"for. Open it with {function}, or use {command}."
    )
