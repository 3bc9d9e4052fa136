"""The one decoder every text model of the family is built from."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from minicpm.cache import Batch, Cache
from minicpm.config import ModelConfig
from minicpm.layers.block import Block
from minicpm.layers.mixers import as_mixer
from minicpm.layers.norm import RMSNorm
from minicpm.layers.step import Step
from minicpm.ops.backend import TORCH, choose_backend
from minicpm.ops.rope import rope_angles
from minicpm.ops.rows import pad_rows, row_multiple


class _Model(nn.Module):
    """The part published checkpoints call `model.`; the decoder drives it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab, config.hidden)
        self.layers = nn.ModuleList(Block(config, i) for i in range(len(config.layers)))
        self.norm = RMSNorm(config.hidden, config.norm_eps)


class Decoder(nn.Module):
    """Token ids to hidden states to logits; submodule names are the published checkpoints'.

    Unprepared it calls every projection as a module and trains; `prepare` fuses them for inference.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backend = TORCH
        self._rows = 1  # rows per product are rounded up to a multiple of this
        self.model = _Model(config)
        if not config.tied:
            self.lm_head = nn.Linear(config.hidden, config.vocab, bias=False)

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the embedding."""
        return self.model.embed_tokens.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.embed_tokens.weight.device

    def forward(self, batch: Batch) -> Tensor:
        """Hidden states [T, D] after the final norm; extends the batch's cache, if any."""
        step = self._step(batch)
        h = pad_rows(self.model.embed_tokens(batch.ids), self._rows) * self.config.embed_scale
        for block in self.model.layers:
            h = block(h, step)
        if batch.cache is not None:
            batch.cache.commit(batch.segments)
        return self.model.norm(h[: len(batch.ids)], self.backend)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [R, V] float32 of hidden states [R, D]; divided by the logit scale, head tied or not."""
        scaled = pad_rows(hidden / self.config.logit_scale, self._rows)
        return linear(scaled, self.head)[: len(hidden)].float()

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

    def prepare(self, backend: str = "auto") -> None:
        """Choose operators and fuse projections; from here on for inference only."""
        self.backend = choose_backend(backend)
        self.requires_grad_(False)
        self._rows = row_multiple(self.dtype, self.device)
        for block in self.model.layers:
            block.prepare()

    def published_state(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight under its published name, prepared or not."""
        yield from self.state_dict().items()

    def _step(self, batch: Batch) -> Step:
        plan = batch.cache.plan(batch.segments) if batch.cache is not None else None
        angles = rope_angles(self.config.rope, batch.positions)
        return Step(self.backend, angles, batch.segments, batch.cache, plan)
