"""Cuts images into patches and gives each a vector."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import pad

from minicpm.config.vision import VisionTransformer
from minicpm.models.vision.positions import Grid


class Patches(NamedTuple):
    """Vectors [N, h * w, D] of the patches of N images, row by row."""

    vectors: Tensor
    grid: Grid


class PatchEmbedding(nn.Module):
    """`proj`: a convolution [D, 3, p, p] with bias whose stride is its width."""

    def __init__(self, tower: VisionTransformer) -> None:
        super().__init__()
        self.patch = tower.patch
        self.proj = nn.Conv2d(3, tower.hidden, kernel_size=tower.patch, stride=tower.patch)

    def forward(self, pixels: Tensor) -> Patches:
        """Patches of pixels [N, 3, H, W], which get zeros at the right and bottom up to whole patches."""
        height, width = pixels.shape[-2:]
        planes = self.proj(pad(pixels, (0, -width % self.patch, 0, -height % self.patch)))
        return Patches(planes.flatten(2).transpose(1, 2), Grid(*planes.shape[-2:]))
