"""What the installed transformers calls a cache, in arguments and in the outputs of models."""

from dataclasses import fields
from typing import Any

from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.generic import ModelOutput

from minicpm.errors import BadParameter
from minicpm.hf.cache import MiniCPMCache

# Newest first. The forwards of this room take each of them; transformers knows one.
CACHE_NAMES = ("cache", "past_key_values")
_FIELDS = {field.name for field in fields(BaseModelOutputWithPast)}
CACHE_NAME = next(name for name in CACHE_NAMES if name in _FIELDS)


def cache_field(cache: MiniCPMCache | None) -> dict[str, Any]:
    """The argument that puts a cache into outputs of a model."""
    return {CACHE_NAME: cache}


def cache_of(outputs: ModelOutput) -> Any:
    """The cache that outputs of a model hold, or None."""
    return getattr(outputs, CACHE_NAME)


def one_cache(cache: MiniCPMCache | None, past_key_values: MiniCPMCache | None) -> MiniCPMCache | None:
    """The cache given under one of its names. Raises BadParameter where both are given."""
    if cache is not None and past_key_values is not None:
        raise BadParameter(
            "cache and past_key_values were both given, and they are two names of one argument. "
            "Leave one of them out."
        )
    return past_key_values if cache is None else cache
