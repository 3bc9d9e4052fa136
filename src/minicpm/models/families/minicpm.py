"""MiniCPMForCausalLM: the muP decoders (1B, 2B, 2B-128k, 4, 4.1, BitCPM4), dense or with InfLLM-V2."""

from dataclasses import replace

from minicpm.config import DynamicNTKRope, LongRope, ModelConfig, RawConfig, Rope
from minicpm.config.sparse import with_sparse
from minicpm.models.families.dense import Defaults, read_dense_shape
from minicpm.models.families.feed_forwards import read_feed_forward
from minicpm.models.families.mup import mup_config
from minicpm.models.families.sparse import read_sparse

_DEFAULTS = Defaults(context=2048, norm_eps=1e-6)
# The original length of MiniCPM4.1's LongRoPE; MiniCPM4's is half of it.
_MINICPM41_ORIGINAL = 65536


def parse(raw: RawConfig) -> ModelConfig:
    """The config of a muP checkpoint; a missing `tie_word_embeddings` means tied."""
    shape = read_dense_shape(raw, _DEFAULTS, ffn=read_feed_forward(raw))
    sparse = read_sparse(raw)
    config = replace(mup_config(raw, shape, family=_family(shape.rope)), sparse=sparse)
    return config if sparse is None else with_sparse(config, "on")


def _family(rope: Rope) -> str:
    match rope:
        case DynamicNTKRope():
            return "minicpm-128k"
        case LongRope() if rope.original >= _MINICPM41_ORIGINAL:
            return "minicpm4.1"
        case LongRope():
            return "minicpm4"
    return "minicpm"
