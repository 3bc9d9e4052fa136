"""The tower that a description asks for."""

from torch import nn

from minicpm.config.vision import Eva, Siglip, Tower
from minicpm.models.vision.eva import EvaTower
from minicpm.models.vision.siglip import SiglipTower


def build_tower(tower: Tower) -> nn.Module:
    """A module from normalised pixels [N, 3, H, W] to Patches."""
    match tower:
        case Siglip():
            return SiglipTower(tower)
        case Eva():
            return EvaTower(tower)
