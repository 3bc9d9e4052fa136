"""OmniLMMForCausalLM: OmniLMM-12B, a Mistral that sees through EVA."""

from dataclasses import replace

from minicpm.config import ModelConfig, RawConfig
from minicpm.config.vision import Placeholder, ResizedPositions, VisionConfig, WeightNames
from minicpm.models.families import llama
from minicpm.models.families.vision import EVA_E, read_image_size, read_resampler, read_tower, without_last

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Settings of its training that configs may carry.
_TRAINING = (
    "mm_hidden_size",
    "tune_clip",
    "tune_mm_mlp_adapter",
    "freeze_mm_mlp_adapter",
    "pretrain_mm_mlp_adapter",
)


def parse(raw: RawConfig) -> ModelConfig:
    """The config of OmniLMM: a Mistral without muP scaling, the EVA tower, and a resampler.

    `mm_vision_tower` may name a file of its author's machine; the tower is always the same one, all but its
    last block. A sliding window bounds the context, because within it attention is the plain one.
    """
    text = llama.parse(raw)
    raw.ignore("mm_vision_tower", *_TRAINING)
    raw.expect("use_mm_proj", (True,), "a model without its resampler is not known")
    raw.expect("mm_use_im_start_end", (True,), "images without start and end markers are not known")
    tower = read_tower(raw, key="the vision tower", name=EVA_E)
    vision = VisionConfig(
        tower=without_last(tower),
        resampler=read_resampler(raw, key="num_query", hidden=text.hidden, positions=ResizedPositions()),
        image_size=read_image_size(raw),
        mean=_CLIP_MEAN,
        std=_CLIP_STD,
        placeholder=Placeholder("<im_start>", "<im_patch>", "<im_end>"),
        names=WeightNames(text="", tower="model.vision_tower", resampler="model.resampler"),
    )
    window = raw.integer("sliding_window", text.context, most=2**31)
    return replace(text, family="omnilmm", context=min(text.context, window), vision=vision)
