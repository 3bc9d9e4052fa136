"""Models that make one thing of a whole text: a vector, or a judgement of a document."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from minicpm.cache import Batch
from minicpm.config import Embedding, ModelConfig, Relevance
from minicpm.models.pooling import pool
from minicpm.models.trunk import Trunk


class EmbeddingModel(Trunk):
    """Texts to vectors of length 1; it has no weights beside the trunk's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        assert isinstance(config.head, Embedding), f"{config.head} is no embedding"
        self.pooling = config.head.pooling

    @property
    def unused(self) -> frozenset[str]:
        """Also `head.weight`, which files of MiniCPM-Embedding-Light carry for sparse vectors."""
        return super().unused | {"head.weight"}

    def embeddings(self, batch: Batch) -> Tensor:
        """One vector of length 1 per segment, [S, D] float32."""
        vectors = pool(self.pooling, self(batch), batch.segments)
        return torch.stack([normalize(vector, dim=0) for vector in vectors])


class RerankingModel(Trunk):
    """Queries with documents to one number each; score.weight [1, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        assert isinstance(config.head, Relevance), f"{config.head} is no relevance"
        self.pooling = config.head.pooling
        self.score = nn.Linear(config.hidden, 1, bias=False)

    def scores(self, batch: Batch) -> Tensor:
        """The logit that the document answers the query, one per segment, [S] float32.

        It is computed in float32 whatever the weights are: in bfloat16 near documents would tie.
        """
        weight = self.score.weight[0].float()
        return torch.stack(
            [(vector * weight).sum() for vector in pool(self.pooling, self(batch), batch.segments)]
        )
