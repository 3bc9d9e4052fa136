"""The shape of nano: a MiniCPM4-architecture decoder of 4.5 million parameters."""

from typing import Any

from minicpm.config import ModelConfig
from minicpm.config.sparse import with_sparse
from minicpm.models.registry import parse


def raw_config(vocab: int = 6144) -> dict[str, Any]:
    """nano's config.json.

    Beyond 1,088 tokens a query attends to 17 of up to 32 blocks. Windows of 4 keys choose them: in so small a
    model a key that matches hardly lifts the mean of the published 32.
    """
    return {
        "architectures": ["MiniCPMForCausalLM"],
        "model_type": "minicpm",
        "vocab_size": vocab,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "scale_emb": 12,
        "scale_depth": 1.4,
        "dim_model_base": 128,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": [2, 4],
        "pad_token_id": 2,
        "initializer_range": 0.1,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "sparse_config": {
            "kernel_size": 4,
            "kernel_stride": 2,
            "init_blocks": 1,
            "block_size": 64,
            "window_size": 64,
            "topk": 16,
            "use_nope": False,
            "dense_len": 1024,
        },
    }


def config(vocab: int = 6144) -> ModelConfig:
    """nano's parsed config; it trains with dense attention."""
    return with_sparse(parse(raw_config(vocab)), "off")
