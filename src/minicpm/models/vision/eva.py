"""The EVA tower (arXiv:2303.15389, the 4.4 B-parameter form), under the tensor names of timm."""

import torch
from torch import Tensor, nn

from minicpm.config.vision import Eva
from minicpm.models.vision.attention import Perceptron, attend_all
from minicpm.models.vision.initial import small_random
from minicpm.models.vision.patches import PatchEmbedding, Patches
from minicpm.models.vision.positions import Grid, resized


class EvaTower(nn.Module):
    """cls_token [1, 1, D], pos_embed [1, 1 + g*g, D] (the class token's first), patch_embed, blocks, norm."""

    def __init__(self, tower: Eva) -> None:
        super().__init__()
        self._grid = Grid(tower.grid, tower.grid)
        self.cls_token = nn.Parameter(small_random(1, 1, tower.hidden))
        self.pos_embed = nn.Parameter(small_random(1, 1 + tower.grid**2, tower.hidden))
        self.patch_embed = PatchEmbedding(tower)
        self.blocks = nn.ModuleList(_Block(tower) for _ in range(tower.layers))
        self.norm = nn.LayerNorm(tower.hidden, eps=tower.eps)

    def forward(self, pixels: Tensor) -> Patches:
        """Patches of normalised pixels [N, 3, H, W], after the final norm and without the class token."""
        x, grid = self.patch_embed(pixels)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self._positions(grid)
        for block in self.blocks:
            x = block(x)
        return Patches(self.norm(x)[:, 1:], grid)

    def _positions(self, grid: Grid) -> Tensor:
        first, patches = self.pos_embed[0].tensor_split([1])
        return torch.cat([first, resized(patches, self._grid, grid, antialias=True)])


class _Block(nn.Module):
    """x + norm1(attn(x)), then x + norm2(mlp(x)): each branch is normalised where it ends."""

    def __init__(self, tower: Eva) -> None:
        super().__init__()
        self.attn = _Attention(tower)
        self.norm1 = nn.LayerNorm(tower.hidden, eps=tower.eps)
        self.mlp = Perceptron(tower)
        self.norm2 = nn.LayerNorm(tower.hidden, eps=tower.eps)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, T, D] after this block."""
        x = x + self.norm1(self.attn(x))
        return x + self.norm2(self.mlp(x))


class _Attention(nn.Module):
    """qkv [3 D, D] without bias, q_bias and v_bias [D] beside it, proj [D, D] with bias."""

    def __init__(self, tower: Eva) -> None:
        super().__init__()
        self.heads = tower.heads
        self.q_bias = nn.Parameter(torch.zeros(tower.hidden))
        self.v_bias = nn.Parameter(torch.zeros(tower.hidden))
        self.qkv = nn.Linear(tower.hidden, 3 * tower.hidden, bias=False)
        self.proj = nn.Linear(tower.hidden, tower.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, T, D] to [N, T, D]."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(attend_all(q + self.q_bias, k, v + self.v_bias, self.heads))
