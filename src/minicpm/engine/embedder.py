"""Turns texts into vectors with a local model."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from minicpm.checkpoint.progress import Progress
from minicpm.config import Embedding, ModelConfig
from minicpm.engine.pooling import (
    BATCH_TOKENS,
    Report,
    check_batch_tokens,
    check_lengths,
    check_list,
    in_order,
    open_pooled,
)
from minicpm.errors import BadParameter, TokenizerMismatch
from minicpm.models.pooled import EmbeddingModel
from minicpm.text.query import query_text
from minicpm.text.tokenizer import Tokenizer

__all__ = ["LocalEmbedder", "load_embedder"]


class LocalEmbedder:
    """An `Embedder` over a loaded model; usable from several threads.

    Vectors have length 1, so that their dot product is their cosine. A text has the same vector alone and in
    any list; on a CPU in float32 to the bit. `batch_tokens` bounds what is computed at once.
    """

    def __init__(
        self, model: EmbeddingModel, tokenizer: Tokenizer, *, batch_tokens: int = BATCH_TOKENS
    ) -> None:
        """Raises TokenizerMismatch when the token that closes a text is not in the vocabulary."""
        self.model = model
        self.tokenizer = tokenizer
        self._batch_tokens = check_batch_tokens(batch_tokens)
        self._start = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
        self._end = _end_ids(model.config, tokenizer)

    @property
    def config(self) -> ModelConfig:
        """What the model is; `context` is the most tokens a text may have."""
        return self.model.config

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return self.config.hidden

    def embed(
        self, texts: Sequence[str], *, truncate: bool = False, report: Report | None = None
    ) -> list[list[float]]:
        """One vector per text, which is taken as it is: as a document.

        A text beyond the model's limit raises PromptTooLong, or loses its end with `truncate`.
        """
        return list(self.stream(texts, truncate=truncate, report=report))

    def embed_queries(
        self,
        queries: Sequence[str],
        *,
        instruction: str | None = None,
        truncate: bool = False,
        report: Report | None = None,
    ) -> list[list[float]]:
        """One vector per query, to compare with those of documents; the instruction says what is sought."""
        check_list(queries, "queries")
        texts = [query_text(query, instruction) for query in queries]
        return self.embed(texts, truncate=truncate, report=report)

    def stream(
        self, texts: Sequence[str], *, truncate: bool = False, report: Report | None = None
    ) -> Iterator[list[float]]:
        """`embed`, the vectors one by one as they are computed; all texts are checked before that."""
        check_list(texts, "texts")
        sequences = [self._encoded(text, truncate) for text in texts]
        check_lengths([len(ids) for ids in sequences], self.config.context, "texts")
        if not all(sequences):
            raise BadParameter(
                f"Text number {sequences.index([]) + 1} is empty, and this model's tokenizer puts no token "
                "before a text, so there is nothing to compute. Leave the text out."
            )
        vectors = in_order(
            self.model.embeddings,
            sequences,
            device=self.model.device,
            batch_tokens=self._batch_tokens,
            report=report,
        )
        return (vector.tolist() for vector in vectors)

    def _encoded(self, text: str, truncate: bool) -> list[int]:
        ids = self.tokenizer.encode(text)
        if truncate:
            ids = ids[: max(self.config.context - len(self._start) - len(self._end), 0)]
        return [*self._start, *ids, *self._end]


def load_embedder(
    model: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    backend: str = "auto",
    threads: int | None = None,
    context: int | None = None,
    revision: str | None = None,
    offline: bool = False,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> LocalEmbedder:
    """An embedding model from a folder or a hub name ("openbmb/MiniCPM-Embedding"); all errors are ours.

    `context` lowers the most tokens a text may have; WrongKind is raised for a model that does not embed.
    """
    module, tokenizer = open_pooled(
        EmbeddingModel,
        model,
        dtype=dtype,
        device=device,
        backend=backend,
        threads=threads,
        context=context,
        revision=revision,
        offline=offline,
        progress=progress,
    )
    return LocalEmbedder(module, tokenizer, batch_tokens=batch_tokens)


def _end_ids(config: ModelConfig, tokenizer: Tokenizer) -> list[int]:
    assert isinstance(config.head, Embedding)
    end = config.head.end
    if end is None:
        return []
    if end not in tokenizer.special_ids:
        raise TokenizerMismatch(
            f"This model closes every text with {end!r}, which is no control token of its tokenizer. Take "
            "the tokenizer files and config.json from the same repository as the weights, or correct "
            "end_token in config.json."
        )
    return [tokenizer.special_ids[end]]
