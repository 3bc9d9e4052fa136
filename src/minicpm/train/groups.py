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
    """Base values, before the division by r_w; betas, decay and eps are ours, the paper gives none."""

    base_lr: float = 0.003
    matrix_lr: float = 0.005
    momentum: float = 0.95
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


def optimizers(decoder: Decoder, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for embeddings and norms; each group's `base` is what the schedule scales.

    Muon (K. Jordan, 2024) orthogonalises the momentum of a matrix. Its steps are scaled to the size of
    AdamW's, so that muP's rule for matrices carries over.
    """
    matrices, embeddings, vectors = _split(decoder)
    by_matrix: list[dict[str, Any]] = [
        {"params": matrices, "base": config.matrix_lr / decoder.config.logit_scale}
    ]
    elementwise: list[dict[str, Any]] = [
        {"params": embeddings, "base": config.base_lr, "weight_decay": 0.0},
        {"params": vectors, "base": config.base_lr, "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(
            by_matrix,
            lr=config.matrix_lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(elementwise, lr=config.base_lr, betas=config.betas, eps=config.eps, fused=True),
    ]


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
