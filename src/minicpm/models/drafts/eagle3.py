"""The draft of MiniCPM4.1-8B-Eagle3: one block over three of the target's layers, with a head of its own."""

import torch
from torch import Tensor, nn

from minicpm.cache import Batch
from minicpm.config import GQA, ModelConfig
from minicpm.layers.attention import Attention
from minicpm.layers.feed_forwards import feed_forward
from minicpm.layers.norm import RMSNorm
from minicpm.layers.step import Step
from minicpm.models.decoder import Decoder
from minicpm.models.drafts.config import Eagle3Config
from minicpm.models.drafts.draft import Draft
from minicpm.models.trunk import Hidden
from minicpm.ops.backend import TORCH, Backend
from minicpm.ops.rows import pad_rows


class Midlayer(nn.Module):
    """r + s * attention [RMS_in(e); RMS_hid(r)], then + s * ffn(RMS_post(r)); attention reads width 2 D."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        (layer,) = config.layers
        assert isinstance(layer.mixer, GQA)
        self.residual_scale = config.residual_scale
        self.hidden_norm = RMSNorm(config.hidden, config.norm_eps)
        self.input_layernorm = RMSNorm(config.hidden, config.norm_eps)
        self.self_attn = Attention(config.hidden, layer.mixer, layer=0, inputs=2 * config.hidden)
        self.post_attention_layernorm = RMSNorm(config.hidden, config.norm_eps)
        self.mlp = feed_forward(config.hidden, layer.ffn)

    def forward(self, embedded: Tensor, r: Tensor, step: Step) -> Tensor:
        """r [T, D] after this layer, for the embeddings [T, D] of the next tokens."""
        both = (self.input_layernorm(embedded, step.ops), self.hidden_norm(r, step.ops))
        mixed = self.self_attn(torch.cat(both, dim=-1), step)
        r = torch.add(r, mixed, alpha=self.residual_scale)
        return torch.add(r, self.mlp(self.post_attention_layernorm(r, step.ops)), alpha=self.residual_scale)

    def prepare(self, backend: Backend = TORCH) -> None:
        """Fuse projections for inference."""
        self.self_attn.prepare(backend)
        self.mlp.prepare(backend)


class Eagle3(Draft):
    """r' = midlayer(embedding of the next token, r), logits = lm_head(norm(r')) (EAGLE-3, arXiv 2503.01840).

    r is fc [D, 3 D] of what enters three of the target's layers, and later the draft's own r', before `norm`.
    Embeddings are the target's, unscaled. lm_head [N, D], whose logits are not divided; `vocabulary` gives
    the target's id of each.
    """

    def __init__(self, config: Eagle3Config, target: Decoder) -> None:
        super().__init__(config.model, target)
        hidden, eps = config.model.hidden, config.model.norm_eps
        self.taps = config.taps
        self.tap_scale = config.tap_scale
        self.fc = nn.Linear(len(config.taps) * hidden, hidden, bias=False)
        self.midlayer = Midlayer(config.model)
        self.norm = RMSNorm(hidden, eps)
        self.lm_head = nn.Linear(hidden, config.vocab, bias=False)

    @property
    def mixer(self) -> nn.Module:
        """The attention of its one layer."""
        return self.midlayer.self_attn

    def features(self, hidden: Hidden) -> Tensor:
        """fc of the tapped layers' inputs, [T, D]."""
        joined = torch.cat(hidden.features, dim=-1) * self.tap_scale
        fused: Tensor = self.fc(pad_rows(joined, self._rows))
        return fused[: len(joined)]

    def forward(self, batch: Batch, features: Tensor) -> Tensor:
        """As `Draft.forward`."""
        step, embedded = self._step(batch), self.target.decoder.model.embed_tokens(batch.ids)
        padded = pad_rows(embedded, self._rows), pad_rows(features, self._rows)
        return self._finished(batch, self.midlayer(*padded, step))

    def logits(self, features: Tensor) -> Tensor:
        """As `Draft.logits`, by the draft's own head."""
        normed = self.norm(pad_rows(features, self._rows), self.backend)
        projected: Tensor = self.lm_head(normed)
        return projected[: len(features)].float()

    def _prepare_layer(self) -> None:
        self.midlayer.prepare(self.backend)
