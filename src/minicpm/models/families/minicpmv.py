"""MiniCPMV: MiniCPM-V 1.0, a MiniCPM-2B that sees through SigLIP."""

from dataclasses import replace

from minicpm.config import ModelConfig, RawConfig
from minicpm.config.vision import FreshPositions, Placeholder, ResizedPositions, VisionConfig, WeightNames
from minicpm.models.families import minicpm
from minicpm.models.families.vision import (
    SIGLIP_SO400M,
    read_image_size,
    read_resampler,
    read_tower,
    without_last,
)

_HALF = (0.5, 0.5, 0.5)


def parse(raw: RawConfig) -> ModelConfig:
    """The config of MiniCPM-V: that of its decoder, and of its tower and resampler.

    Keys `slice_mode` and below are those of version 2.0, whose resampler computes positions anew; its slices
    are not read.
    """
    text = minicpm.parse(raw)
    tower = read_tower(raw, key="vision_encoder", name=raw.text("vision_encoder", SIGLIP_SO400M))
    if raw.boolean("drop_vision_last_layer", True):
        tower = without_last(tower)
    patch = raw.integer("patch_size", tower.patch)
    if patch != tower.patch:
        raw.problem(f"patch_size is {patch}, and the patches of this vision_encoder are {tower.patch} wide")
    raw.expect("mm_use_im_start_end", (True,), "images without start and end markers are not known")
    vision = VisionConfig(
        tower=tower,
        resampler=read_resampler(raw, key="query_num", hidden=text.hidden, positions=_positions(raw)),
        image_size=read_image_size(raw),
        mean=_HALF,
        std=_HALF,
        placeholder=Placeholder("<image>", "<unk>", "</image>"),
        names=WeightNames(text="llm", tower="vpm", resampler="resampler"),
    )
    return replace(text, family="minicpm-v", vision=vision)


def _positions(raw: RawConfig) -> ResizedPositions | FreshPositions:
    second_version = raw.has("slice_mode")
    raw.expect("slice_mode", (False,), "cutting images into slices (MiniCPM-V 2.0) is not supported")
    raw.ignore("max_slice_nums", "scale_resolution")
    return FreshPositions() if second_version else ResizedPositions()
