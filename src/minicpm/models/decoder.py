"""The one decoder every text model of the family is built from."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from minicpm.cache import Batch, Cache
from minicpm.config import ModelConfig
from minicpm.config.kv import AUTO
from minicpm.layers.fused import hold
from minicpm.layers.mixers import as_mixer
from minicpm.layers.native_linear import NativeEmbedding, NativeLinear, native_embedding
from minicpm.models.kv import require_kv
from minicpm.models.trunk import Trunk
from minicpm.ops.backend import Backend
from minicpm.ops.native.matrix import NativeMatrix
from minicpm.ops.native.memory import give_back
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
        if (native := self._native_head) is not None:
            return native(scaled, torch.float32)[: len(hidden)]
        projected = self.lm_head(scaled) if hasattr(self, "lm_head") else linear(scaled, self.head)
        return projected[: len(hidden)].float()

    def prepare(self, backend: str | Backend = "auto", *, threads: int | None = None) -> None:
        """As `Trunk.prepare`, and the head with it."""
        super().prepare(backend, threads=threads)
        runtime = self.backend.runtime
        if runtime is None:
            return
        if not self.config.tied:
            hold(self._above_head, ("lm_head",), self.backend)
        elif (native := native_embedding(self.model.embed_tokens, runtime)) is not None:
            self.model.embed_tokens = native
        give_back()

    @property
    def _above_head(self) -> nn.Module:
        """The module that `lm_head` is registered in; a prefix may stand between."""
        return next(part for part in self.modules() if "lm_head" in part._modules)

    @property
    def _native_head(self) -> NativeMatrix | None:
        """The output matrix where the kernels hold it and no adapter stands around it."""
        head = self.model.embed_tokens if self.config.tied else self.lm_head
        return head.matrix if type(head) in (NativeEmbedding, NativeLinear) else None

    @property
    def head(self) -> Tensor:
        """The output matrix [V, D]: the embedding when tied."""
        return self.model.embed_tokens.weight if self.config.tied else self.lm_head.weight

    def logits_for(self, ids: Sequence[int] | Tensor) -> Tensor:
        """Logits [T, V] float32 of one whole sequence of ids, without a cache."""
        sequence = torch.as_tensor(ids, dtype=torch.int64, device=self.device)
        return self.logits(self(Batch.of_sequences(sequence)))

    def new_cache(self, pages: int, dtype: torch.dtype | None = None, *, kv: str = AUTO) -> Cache:
        """An empty cache of `pages` pages of 64 tokens, in the weights' dtype unless said.

        `kv` "int8" holds keys and values of softmax attention in 8 bits with a scale per token and head,
        which the native kernels read; latents and recurrent states stay as they are. Raises BadParameter
        where that cannot be had.
        """
        require_kv(kv, self.config, self.backend, dtype=self.dtype, device=self.device)
        dtype = dtype or self.dtype
        mixers = [as_mixer(block.self_attn) for block in self.model.layers]
        stores = [mixer.new_store(pages, dtype, self.device, kv) for mixer in mixers]
        return Cache(stores, pages, device=self.device)
