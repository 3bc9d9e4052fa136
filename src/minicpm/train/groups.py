"""Initial weights and optimizer groups under muP ("tensor programs") as MiniCPM uses it.

Matrices start at init_std / sqrt(r_w) and learn at base_lr / r_w, with r_w = hidden / dim_model_base,
the decoder's logit scale; embeddings and norms learn at base_lr (arXiv 2404.06395, table 7).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minicpm.models.decoder import Decoder


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """Base values; the paper does not give betas, decay or eps, so they are ours."""

    base_lr: float = 0.01
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    init_std: float = 0.1


@torch.no_grad()
def initialise(decoder: Decoder, config: OptimizerConfig, *, seed: int) -> None:
    """Fill all weights: matrices and embedding normal, norm gains one."""
    generator = torch.Generator().manual_seed(seed)
    ratio = decoder.config.logit_scale
    for name, weight in decoder.named_parameters():
        if weight.ndim < 2:
            weight.fill_(1.0)
        else:
            std = config.init_std if _is_embedding(name) else config.init_std / ratio**0.5
            weight.normal_(0.0, std, generator=generator)


def adamw(decoder: Decoder, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW over three groups; each group's `base` is the learning rate the schedule scales."""
    ratio = decoder.config.logit_scale
    matrices, embeddings, vectors = _split(decoder)
    groups: list[dict[str, Any]] = [
        {"params": matrices, "base": config.base_lr / ratio, "weight_decay": config.weight_decay},
        {"params": embeddings, "base": config.base_lr, "weight_decay": 0.0},
        {"params": vectors, "base": config.base_lr, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.base_lr, betas=config.betas, eps=config.eps, fused=True)


def set_learning_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Give every group its base learning rate times `factor`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * factor


def _split(decoder: Decoder) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    matrices, embeddings, vectors = [], [], []
    for name, weight in _parameters(decoder):
        (vectors if weight.ndim < 2 else embeddings if _is_embedding(name) else matrices).append(weight)
    return matrices, embeddings, vectors


def _parameters(decoder: Decoder) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, weight) for name, weight in decoder.named_parameters() if weight.requires_grad)


def _is_embedding(name: str) -> bool:
    return name.endswith(("embed_tokens.weight", "lm_head.weight"))
