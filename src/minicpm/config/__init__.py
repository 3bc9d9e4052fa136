"""Describes any model of the family as data; imports no torch."""

from minicpm.config.context import extend, reach
from minicpm.config.dtypes import BYTES, dtype_name, resolve_dtype
from minicpm.config.model import GQA, Dense, LayerConfig, ModelConfig, SparseConfig, parameter_count
from minicpm.config.raw import RawConfig
from minicpm.config.rope import DefaultRope, DynamicNTKRope, LinearRope, LongRope, Rope

__all__ = [
    "BYTES",
    "GQA",
    "DefaultRope",
    "Dense",
    "DynamicNTKRope",
    "LayerConfig",
    "LinearRope",
    "LongRope",
    "ModelConfig",
    "RawConfig",
    "Rope",
    "SparseConfig",
    "dtype_name",
    "extend",
    "parameter_count",
    "reach",
    "resolve_dtype",
]
