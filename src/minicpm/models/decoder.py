"""The one decoder every text model of the family is built from."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from minicpm.cache import Batch, Cache
from minicpm.config import ModelConfig
from minicpm.layers.mixers import as_mixer
from minicpm.models.trunk import Trunk
from minicpm.ops.rows import pad_rows


class Decoder(Trunk):
    """Token ids to hidden states to logits; a tied model uses its embedding as head, others `lm_head`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        if not config.tied:
            self.lm_head = nn.Linear(config.hidden, config.vocab, bias=False)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [R, V] float32 of hidden states [R, D]; divided by the logit scale, head tied or not."""
        scaled = pad_rows(hidden / self.config.logit_scale, self._rows)
        # A head that is a module is called, so that an adapter around it takes part.
        projected = self.lm_head(scaled) if hasattr(self, "lm_head") else linear(scaled, self.head)
        return projected[: len(hidden)].float()

    @property
    def head(self) -> Tensor:
        """The output matrix [V, D]: the embedding when tied."""
        return self.model.embed_tokens.weight if self.config.tied else self.lm_head.weight

    def logits_for(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Logits [T, V] float32 of one whole sequence of ids, without a cache."""
        sequence = torch.as_tensor(ids, dtype=torch.int64, device=self.device)
        return self.logits(self(Batch.of_sequences(sequence)))

    def new_cache(self, pages: int, dtype: torch.dtype | None = None) -> Cache:
        """An empty cache of `pages` pages of 64 tokens, in the weights' dtype unless said."""
        dtype = dtype or self.dtype
        mixers = [as_mixer(block.self_attn) for block in self.model.layers]
        stores = [mixer.new_store(pages, dtype, self.device) for mixer in mixers]
        return Cache(stores, pages, device=self.device)
