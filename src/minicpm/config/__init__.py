"""Describes any model of the family as data; imports no torch."""

from minicpm.config.context import extend, reach
from minicpm.config.dtypes import BYTES, dtype_name, resolve_dtype
from minicpm.config.feed_forwards import Activation, Dense, FATReLU, FeedForward, MoE, SiLU
from minicpm.config.mixers import GQA, MLA, InfLLM, Lightning, Mixer, SparseConfig
from minicpm.config.model import LayerConfig, ModelConfig, parameter_count
from minicpm.config.raw import RawConfig
from minicpm.config.rope import DefaultRope, DynamicNTKRope, LinearRope, LongRope, Rope

__all__ = [
    "BYTES",
    "GQA",
    "MLA",
    "Activation",
    "DefaultRope",
    "Dense",
    "DynamicNTKRope",
    "FATReLU",
    "FeedForward",
    "InfLLM",
    "LayerConfig",
    "Lightning",
    "LinearRope",
    "LongRope",
    "Mixer",
    "MoE",
    "ModelConfig",
    "RawConfig",
    "Rope",
    "SiLU",
    "SparseConfig",
    "dtype_name",
    "extend",
    "parameter_count",
    "reach",
    "resolve_dtype",
]
