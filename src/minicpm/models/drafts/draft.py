"""What drafts share: the target they borrow from, a cache of one layer, and one step over packed tokens."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from minicpm.cache import Batch, Cache
from minicpm.config import ModelConfig
from minicpm.layers.mixers import as_mixer
from minicpm.layers.step import Step
from minicpm.models.decoder import Decoder
from minicpm.models.drafts.vocabulary import Vocabulary
from minicpm.models.trunk import Hidden
from minicpm.ops.backend import TORCH, choose_backend
from minicpm.ops.rows import row_multiple


class Target:
    """The decoder a draft guesses for; no module, so that its weights are not counted as the draft's."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder


class Draft(nn.Module, ABC):
    """Guesses the token after next: position t has the target's features there and the token at t + 1.

    So `batch.ids` are the tokens that follow, while segments start at the position of the features. `taps`
    are the target layers whose input `features` needs; see `Trunk.forward_with_features`.
    """

    taps: tuple[int, ...] = ()

    def __init__(self, config: ModelConfig, target: Decoder) -> None:
        super().__init__()
        self.config = config
        self.target = Target(target)
        self.backend = TORCH
        self.vocabulary: Vocabulary | None = None
        self._rows = 1  # rows per product are rounded up to a multiple of this

    @property
    @abstractmethod
    def mixer(self) -> nn.Module:
        """The attention of its one layer."""

    @abstractmethod
    def features(self, hidden: Hidden) -> Tensor:
        """What `forward` takes, [T, D], from what the target gave for the same tokens."""

    @abstractmethod
    def forward(self, batch: Batch, features: Tensor) -> Tensor:
        """The features [T, D] of the tokens in the batch as the draft guesses them; extends its cache."""

    @abstractmethod
    def logits(self, features: Tensor) -> Tensor:
        """Logits [R, N] float32 over the draft's vocabulary, for features [R, D] from `forward`."""

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def token_ids(self, guesses: Tensor) -> Tensor:
        """The target's token ids of positions in the draft's logits."""
        return guesses if self.vocabulary is None else self.vocabulary.to_target(guesses)

    def new_cache(self, pages: int, dtype: torch.dtype | None = None) -> Cache:
        """An empty cache of `pages` pages of 64 tokens for the draft's layer."""
        store = as_mixer(self.mixer).new_store(pages, dtype or self.dtype, self.device)
        return Cache([store], pages, device=self.device)

    def prepare(self, backend: str = "auto") -> None:
        """Choose operators and fuse projections; from here on for inference only."""
        self.backend = choose_backend(backend, dtype=self.dtype, device=self.device)
        self.requires_grad_(False)
        self._rows = row_multiple(self.dtype, self.device)
        self._prepare_layer()

    @abstractmethod
    def _prepare_layer(self) -> None: ...

    def _step(self, batch: Batch) -> Step:
        return Step.of(batch, self.config.rope, self.backend)

    def _finished(self, batch: Batch, h: Tensor) -> Tensor:
        """The rows of the batch's tokens, which the cache then counts."""
        if batch.cache is not None:
            batch.cache.commit(batch.segments)
        return h[: len(batch.ids)]
