"""The SigLIP tower (arXiv:2303.15343), under the tensor names of timm."""

from torch import Tensor, nn

from minicpm.config.vision import Siglip
from minicpm.models.vision.attention import Perceptron, attend_all
from minicpm.models.vision.initial import small_random
from minicpm.models.vision.patches import PatchEmbedding, Patches
from minicpm.models.vision.positions import Grid, resized


class SiglipTower(nn.Module):
    """pos_embed [1, g*g, D], patch_embed, blocks, norm."""

    def __init__(self, tower: Siglip) -> None:
        super().__init__()
        self._grid = Grid(tower.grid, tower.grid)
        self.pos_embed = nn.Parameter(small_random(1, tower.grid**2, tower.hidden))
        self.patch_embed = PatchEmbedding(tower)
        self.blocks = nn.ModuleList(_Block(tower) for _ in range(tower.layers))
        self.norm = nn.LayerNorm(tower.hidden, eps=tower.eps)

    def forward(self, pixels: Tensor) -> Patches:
        """Patches of normalised pixels [N, 3, H, W], after the final norm."""
        x, grid = self.patch_embed(pixels)
        x = x + resized(self.pos_embed[0], self._grid, grid, antialias=True)
        for block in self.blocks:
            x = block(x)
        return Patches(self.norm(x), grid)


class _Block(nn.Module):
    """x + attn(norm1(x)), then x + mlp(norm2(x))."""

    def __init__(self, tower: Siglip) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(tower.hidden, eps=tower.eps)
        self.attn = _Attention(tower)
        self.norm2 = nn.LayerNorm(tower.hidden, eps=tower.eps)
        self.mlp = Perceptron(tower)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, T, D] after this block."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Attention(nn.Module):
    """qkv [3 D, D] and proj [D, D], both with bias."""

    def __init__(self, tower: Siglip) -> None:
        super().__init__()
        self.heads = tower.heads
        self.qkv = nn.Linear(tower.hidden, 3 * tower.hidden)
        self.proj = nn.Linear(tower.hidden, tower.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, T, D] to [N, T, D]."""
        return self.proj(attend_all(*self.qkv(x).chunk(3, dim=-1), self.heads))
