"""One residual block: norm, mixer, norm, feed-forward."""

import torch
from torch import Tensor, nn

from minicpm.config import ModelConfig
from minicpm.layers.feed_forwards import feed_forward
from minicpm.layers.mixers import mixer
from minicpm.layers.norm import RMSNorm
from minicpm.layers.step import Step


class Block(nn.Module):
    """h + s * mixer(norm(h)), then h + s * ffn(norm(h)), with s the residual scale."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        layer = config.layers[index]
        self.residual_scale = config.residual_scale
        self.input_layernorm = RMSNorm(config.hidden, config.norm_eps)
        self.self_attn = mixer(config.hidden, layer.mixer, layer=index, norm_eps=config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden, config.norm_eps)
        self.mlp = feed_forward(config.hidden, layer.ffn)

    def forward(self, h: Tensor, step: Step, rows: Tensor | None = None) -> Tensor:
        """h [T, D] after this block, or [R, D] of the `rows` wanted: the others only feed the mixer."""
        mixed = self.self_attn(self.input_layernorm(h, step.ops), step)
        if rows is not None:
            h, mixed = h[rows], mixed[rows]
        h = torch.add(h, mixed, alpha=self.residual_scale)
        return torch.add(h, self.mlp(self.post_attention_layernorm(h, step.ops)), alpha=self.residual_scale)

    def prepare(self) -> None:
        """Fuse projections for inference."""
        self.self_attn.prepare()
        self.mlp.prepare()
