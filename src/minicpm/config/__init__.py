"""Describes any model of the family as data; imports no torch."""

from minicpm.config.context import extend, reach
from minicpm.config.dtypes import BYTES, dtype_name, resolve_dtype
from minicpm.config.feed_forwards import Activation, Dense, FATReLU, FeedForward, MoE, SiLU
from minicpm.config.heads import (
    Embedding,
    FirstToken,
    Head,
    LastToken,
    NextToken,
    Pooling,
    Relevance,
    WeightedMean,
)
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
    "Embedding",
    "FATReLU",
    "FeedForward",
    "FirstToken",
    "Head",
    "InfLLM",
    "LastToken",
    "LayerConfig",
    "Lightning",
    "LinearRope",
    "LongRope",
    "Mixer",
    "MoE",
    "ModelConfig",
    "NextToken",
    "Pooling",
    "RawConfig",
    "Relevance",
    "Rope",
    "SiLU",
    "SparseConfig",
    "WeightedMean",
    "dtype_name",
    "extend",
    "parameter_count",
    "reach",
    "resolve_dtype",
]
