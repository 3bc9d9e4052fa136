"""The published checkpoints this version loads, with the configs they are known to carry.

A checkpoint's own config.json always wins; these serve `minicpm models`, benchmarks on random
weights of the real shapes, and checks of parameter counts. Values not confirmed from a source are
listed in `unverified`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minicpm.config import rope_tables

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Published:
    """One row: a short name, where it is published, its config and its parameter count, if known.

    `ternary` rows hold projections whose groups of weights take only the values -s, 0 and s.
    """

    name: str
    repositories: tuple[str, ...]
    family: str
    raw: Raw
    parameters: int | None
    unverified: tuple[str, ...] = ()
    ternary: bool = False


def published() -> list[Published]:
    """All rows, in order of publication."""
    return list(_ROWS)


def by_name(name: str) -> Published:
    """The row of that name; KeyError is a mistake of the caller."""
    return {row.name: row for row in _ROWS}[name]


def _mup(**own: Any) -> dict[str, Any]:
    shared = {
        "architectures": ["MiniCPMForCausalLM"],
        "model_type": "minicpm",
        "hidden_act": "silu",
        "attention_bias": False,
        "scale_emb": 12,
        "scale_depth": 1.4,
        "dim_model_base": 256,
        "initializer_range": 0.1,
        "rope_scaling": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }
    return shared | own


_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)


def _sizes(*numbers: int) -> dict[str, Any]:
    """Numbers in the order of _SIZES."""
    return dict(zip(_SIZES, numbers, strict=True))


def _longrope(
    table: tuple[float, ...], original: int, *, spelling: str = "rope_type", kind: str = "longrope"
) -> Raw:
    factors = list(table)
    return {
        "rope_scaling": {
            spelling: kind,
            "short_factor": factors,
            "long_factor": factors,
            "original_max_position_embeddings": original,
        },
        "max_position_embeddings": original,
    }


_2B = _sizes(2304, 5760, 40, 36, 36, 122753) | {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
_1B = _sizes(1536, 3840, 52, 24, 8, 73440) | {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
_MLA = _sizes(2560, 6400, 62, 40, 40, 73448) | {
    "architectures": ["MiniCPM3ForCausalLM"],
    "model_type": "minicpm3",
    "q_lora_rank": 768,
    "kv_lora_rank": 256,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "rms_norm_eps": 1e-5,
    "eos_token_id": [2, 73440],
}
_SEEING = _2B | {
    "architectures": ["MiniCPMV"],
    "model_type": "minicpmv",
    "vision_encoder": "vit_so400m_patch14_siglip_384.webli",
    "query_num": 64,
    "image_size": 448,
    "drop_vision_last_layer": True,
    "mm_use_im_start_end": True,
}
_OMNILMM = _sizes(4096, 14336, 32, 32, 8, 32004) | {
    "architectures": ["OmniLMMForCausalLM"],
    "model_type": "omnilmm",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
    "mm_vision_tower": "eva02_enormous_patch14_clip_224",
    "num_query": 64,
    "image_size": 448,
    "mm_use_im_start_end": True,
    "use_mm_proj": True,
}
_8B = _sizes(4096, 16384, 32, 32, 2, 73448) | {
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "mup_denominator": 32,
    "eos_token_id": [2, 73440],
    "pad_token_id": 2,
}
_SMALL = _sizes(1024, 4096, 24, 16, 2, 73448) | {
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "eos_token_id": [2, 73440],
}
_BITCPM_1B = _sizes(1536, 3840, 52, 24, 8, 73448) | {"rms_norm_eps": 1e-5}
# Softmax layers of MiniCPM-SALA; the others are lightning.
_SALA_SOFTMAX = (0, 9, 16, 17, 22, 29, 30, 31)
_SALA = {
    "architectures": ["MiniCPMSALAForCausalLM"],
    "model_type": "minicpm_sala",
    "head_dim": 128,
    "max_position_embeddings": 524288,
    "rope_theta": 10000.0,
    "shift_labels": True,
    "mixer_types": ["minicpm4" if i in _SALA_SOFTMAX else "lightning-attn" for i in range(32)],
    "attn_use_rope": False,
    "attn_use_output_gate": True,
    "sparse_config": {
        "kernel_size": 32,
        "kernel_stride": 16,
        "init_blocks": 1,
        "block_size": 64,
        "window_size": 2048,
        "topk": 64,
        "use_nope": False,
        "dense_len": 8192,
    },
    "lightning_nh": 32,
    "lightning_nkv": 32,
    "lightning_head_dim": 128,
    "lightning_scale": "1/sqrt(d)",
    "lightning_use_rope": True,
    "qk_norm": True,
    "use_output_norm": True,
    "use_output_gate": True,
}

_ROWS = (
    Published(
        "MiniCPM-2B",
        (
            "openbmb/MiniCPM-2B-sft-bf16",
            "openbmb/MiniCPM-2B-sft-fp32",
            "openbmb/MiniCPM-2B-dpo-bf16",
            "openbmb/MiniCPM-2B-dpo-fp16",
            "openbmb/MiniCPM-2B-dpo-fp32",
        ),
        "minicpm",
        _mup(**_2B),
        2724880896,
    ),
    Published(
        "MiniCPM-1B",
        ("openbmb/MiniCPM-1B-sft-bf16",),
        "minicpm",
        _mup(**_1B),
        1360246272,
        unverified=("max_position_embeddings",),
    ),
    Published(
        "OmniLMM-12B",
        ("openbmb/OmniLMM-12B",),
        "omnilmm",
        _OMNILMM,
        None,
        unverified=(
            "vocab_size",
            "max_position_embeddings",
            "sliding_window",
            "torch_dtype",
            "num_query",
            "image_size",
        ),
    ),
    Published(
        "MiniCPM-2B-128k",
        ("openbmb/MiniCPM-2B-128k",),
        "minicpm-128k",
        _mup(
            **_2B
            | {
                "vocab_size": 122760,
                "tie_word_embeddings": False,
                "max_position_embeddings": 65536,
                "rope_theta": 4129032.258,
                "rope_scaling": {"type": "dynamic", "factor": 4.0},
            }
        ),
        None,
        unverified=("vocab_size", "max_position_embeddings", "rope_theta", "rope_scaling.factor"),
    ),
    Published(
        "MiniCPM-MoE-8x2B",
        ("openbmb/MiniCPM-MoE-8x2B",),
        "minicpm",
        _mup(**_2B, num_experts=8, num_experts_per_tok=2),
        13873291776,
    ),
    Published(
        "MiniCPM-S-1B",
        ("openbmb/MiniCPM-S-1B-sft",),
        "minicpm",
        _mup(**_1B | {"hidden_act": "fatrelu", "hidden_act_param": 0.01}),
        1360246272,
        unverified=("max_position_embeddings", "hidden_act_param"),
    ),
    Published(
        "MiniCPM-V",
        ("openbmb/MiniCPM-V",),
        "minicpm-v",
        _mup(**_SEEING),
        None,
        unverified=("image_size", "tie_word_embeddings", "torch_dtype"),
    ),
    Published(
        "MiniCPM3-4B",
        ("openbmb/MiniCPM3-4B",),
        "minicpm3",
        _mup(**_MLA, **_longrope(rope_tables.MINICPM3, 32768, spelling="type")),
        4073875968,
    ),
    Published(
        "MiniCPM4-8B",
        ("openbmb/MiniCPM4-8B",),
        "minicpm4",
        _mup(**_8B, **_longrope(rope_tables.MINICPM4_8B, 32768)),
        8185253888,
    ),
    Published(
        "MiniCPM4-0.5B",
        ("openbmb/MiniCPM4-0.5B", "openbmb/MiniCPM4-0.5B-QAT-Int4-unquantized"),
        "minicpm4",
        _mup(**_SMALL, **_longrope(rope_tables.MINICPM4_SMALL, 32768)),
        433873920,
    ),
    Published(
        "MiniCPM4.1-8B",
        ("openbmb/MiniCPM4.1-8B",),
        "minicpm4.1",
        _mup(**_8B, **_longrope(rope_tables.MINICPM41_8B, 65536)),
        8185253888,
        unverified=("rope_scaling factors, reconstructed from the published 128K list",),
    ),
    Published(
        "BitCPM4-1B",
        ("openbmb/BitCPM4-1B",),
        "minicpm4",
        _mup(**_BITCPM_1B, **_longrope(rope_tables.MINICPM4_SMALL, 32768, spelling="type", kind="su")),
        1360258560,
        unverified=("tie_word_embeddings",),
        ternary=True,
    ),
    Published(
        "BitCPM4-0.5B",
        ("openbmb/BitCPM4-0.5B",),
        "minicpm4",
        _mup(**_SMALL, **_longrope(rope_tables.MINICPM4_SMALL, 32768)),
        433873920,
        unverified=("all of config.json; dimensions are MiniCPM4-0.5B's",),
        ternary=True,
    ),
    Published("MiniCPM-SALA", ("openbmb/MiniCPM-SALA",), "minicpm-sala", _mup(**_8B | _SALA), 9477203968),
    Published(
        "MiniCPM-Embedding",
        ("openbmb/MiniCPM-Embedding",),
        "minicpm-embedding",
        _mup(**_2B, architectures=["MiniCPMModel"]),
        2724880896,
        unverified=("torch_dtype", "that no token closes a text"),
    ),
    Published(
        "MiniCPM-Reranker",
        ("openbmb/MiniCPM-Reranker",),
        "minicpm-reranker",
        _mup(**_2B, architectures=["MiniCPMForSequenceClassification"]),
        2724883200,
        unverified=("torch_dtype", "that the first token is judged"),
    ),
    Published(
        "MiniCPM-2B-llama-format",
        ("openbmb/MiniCPM-2B-sft-bf16-llama-format",),
        "minicpm-llama",
        _2B
        | {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": "bfloat16",
        },
        None,
    ),
    Published(
        "MiniCPM5-1B",
        ("openbmb/MiniCPM5-1B",),
        "minicpm5",
        _sizes(1536, 4608, 24, 16, 2, 130560)
        | {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "head_dim": 128,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 5000000.0,
            "rope_scaling": None,
            "max_position_embeddings": 131072,
            "tie_word_embeddings": False,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": 0,
            "eos_token_id": [1, 130073],
            "torch_dtype": "bfloat16",
        },
        1080632832,
        unverified=("bos_token_id",),
    ),
)
