"""The draft of MiniCPM4-8B-Eagle: one block of the target's kind, with its embedding and its head."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from minicpm.cache import Batch
from minicpm.layers.block import Block
from minicpm.layers.norm import RMSNorm
from minicpm.models.decoder import Decoder
from minicpm.models.drafts.config import Eagle2Config
from minicpm.models.drafts.draft import Draft
from minicpm.models.drafts.vocabulary import Vocabulary
from minicpm.models.trunk import Hidden
from minicpm.ops.rows import pad_rows


class Eagle2(Draft):
    """y = block(fc [RMS_1(embedding of the next token); RMS_2(features)]); logits are the target's of y.

    After EAGLE-2 (arXiv 2406.16858), with norms of both inputs. Features are the target's hidden states after
    its final norm, and later the draft's own y. fc [D, 2 D], input_norm1 and input_norm2 [D], layers.0.
    """

    def __init__(self, config: Eagle2Config, target: Decoder, *, bias: bool = False) -> None:
        super().__init__(config.model, target)
        hidden, eps = config.model.hidden, config.model.norm_eps
        self.fc = nn.Linear(2 * hidden, hidden, bias=bias)
        self.input_norm1 = RMSNorm(hidden, eps)
        self.input_norm2 = RMSNorm(hidden, eps)
        self.layers = nn.ModuleList([Block(config.model, 0)])
        self._head: Tensor | None = None

    @property
    def mixer(self) -> nn.Module:
        """The attention of its one layer."""
        return self.layers[0].get_submodule("self_attn")

    def features(self, hidden: Hidden) -> Tensor:
        """The target's hidden states [T, D] themselves."""
        return hidden.last

    def forward(self, batch: Batch, features: Tensor) -> Tensor:
        """As `Draft.forward`."""
        step, embedded = self._step(batch), self.target.decoder.embed(batch.ids)
        both = (self.input_norm1(embedded, step.ops), self.input_norm2(features, step.ops))
        x: Tensor = self.fc(pad_rows(torch.cat(both, dim=-1), self._rows))
        return self._finished(batch, self.layers[0](x, step))

    def logits(self, features: Tensor) -> Tensor:
        """As `Draft.logits`: the target's own, or those of frequent tokens, divided by its logit scale."""
        if self._head is None:
            return self.target.decoder.logits(features)
        scaled = pad_rows(features / self.config.logit_scale, self._rows)
        return linear(scaled, self._head)[: len(features)].float()

    def restrict(self, vocabulary: Vocabulary) -> None:
        """Guess only these tokens (FR-Spec): their rows of the target's head are gathered once."""
        self.vocabulary = vocabulary
        self._head = self.target.decoder.head.detach()[vocabulary.ids]

    def _prepare_layer(self) -> None:
        block = self.layers[0]
        assert isinstance(block, Block)
        block.prepare(self.backend)
