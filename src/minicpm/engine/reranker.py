"""Judges with a local model how well documents answer a query."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import torch

from minicpm.checkpoint.progress import Progress
from minicpm.config import ModelConfig, Relevance
from minicpm.engine.pooling import (
    BATCH_TOKENS,
    Report,
    check_batch_tokens,
    check_lengths,
    check_list,
    in_order,
    open_pooled,
)
from minicpm.errors import BadParameter
from minicpm.models.pooled import RerankingModel
from minicpm.text.query import query_text
from minicpm.text.tokenizer import Tokenizer

__all__ = ["LocalReranker", "Scale", "load_reranker"]

Scale: TypeAlias = Literal["logit", "probability"]
"""The model's own number, or its sigmoid, from 0 to 1; both give the same order."""


class LocalReranker:
    """A `Reranker` over a loaded model; usable from several threads.

    A document has the same score alone and in any list; on a CPU in float32 to the bit. `batch_tokens` bounds
    what is computed at once.
    """

    def __init__(
        self, model: RerankingModel, tokenizer: Tokenizer, *, batch_tokens: int = BATCH_TOKENS
    ) -> None:
        assert isinstance(model.config.head, Relevance)
        self.model = model
        self.tokenizer = tokenizer
        self._batch_tokens = check_batch_tokens(batch_tokens)
        self._start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        self._between = [model.config.head.separator]

    @property
    def config(self) -> ModelConfig:
        """What the model is; `context` is the most tokens that query and document may have together."""
        return self.model.config

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        instruction: str | None = None,
        scale: Scale = "logit",
        truncate: bool = False,
        report: Report | None = None,
    ) -> list[float]:
        """One score per document, higher is better, in the order of the documents.

        The instruction says what is sought. A pair beyond the model's limit raises PromptTooLong; with
        `truncate` the document loses its end, and the query what is beyond half of the limit.
        """
        return list(
            self.stream(
                query, documents, instruction=instruction, scale=scale, truncate=truncate, report=report
            )
        )

    def stream(
        self,
        query: str,
        documents: Sequence[str],
        *,
        instruction: str | None = None,
        scale: Scale = "logit",
        truncate: bool = False,
        report: Report | None = None,
    ) -> Iterator[float]:
        """`rank`, the scores one by one as they are computed; all documents are checked before that."""
        check_list(documents, "documents")
        if scale not in ("logit", "probability"):
            raise BadParameter(f"The scale {scale!r} is not known. Use logit or probability.")
        asked = self.tokenizer.encode(query_text(query, instruction))
        pairs = [self._pair(asked, self.tokenizer.encode(document), truncate) for document in documents]
        check_lengths([len(ids) for ids in pairs], self.config.context, "documents with their query")
        scores = in_order(
            self.model.scores,
            pairs,
            device=self.model.device,
            batch_tokens=self._batch_tokens,
            report=report,
        )
        return ((score if scale == "logit" else score.sigmoid()).item() for score in scores)

    def _pair(self, query: list[int], document: list[int], truncate: bool) -> list[int]:
        if truncate:
            room = max(self.config.context - len(self._start) - len(self._between), 0)
            query = query[: max(room // 2, room - len(document))]
            document = document[: room - len(query)]
        return [*self._start, *query, *self._between, *document]


def load_reranker(
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
) -> LocalReranker:
    """A reranking model from a folder or a hub name ("openbmb/MiniCPM-Reranker"); all errors are ours.

    `context` lowers the most tokens a pair may have; WrongKind is raised for a model that does not rank.
    """
    module, tokenizer = open_pooled(
        RerankingModel,
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
    return LocalReranker(module, tokenizer, batch_tokens=batch_tokens)
