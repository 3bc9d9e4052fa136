"""What caches of 128 K tokens hold at the published sizes, against the published formulas."""

import pytest
import torch

from minicpm.checkpoint.building import blank
from minicpm.config import SparseConfig
from minicpm.config.memory import STATE_MARKS, cache_bytes
from minicpm.config.sparse import with_sparse
from minicpm.models.published import by_name
from minicpm.models.registry import parse

TOKENS = 131072
BFLOAT16 = 2
# Formulas count keys, values, latents and states; what a cache holds beside them is below this share.
SHARE = 0.02


def held(config):
    """Bytes of the pages of a real cache, on the meta device."""
    return blank(config).new_cache(TOKENS // 64, torch.bfloat16).nbytes


def keys_and_values(layers, kv_heads, width):
    return layers * TOKENS * 2 * kv_heads * width * BFLOAT16


def compressed_keys(layers, kv_heads, width):
    """One per 16 tokens: 1/32 of keys and values (InfLLM-V2, arXiv 2509.24663)."""
    return keys_and_values(layers, kv_heads, width) / 32


@pytest.mark.parametrize("name", ["MiniCPM4-8B", "MiniCPM4.1-8B"])
def test_a_sparse_cache_adds_compressed_keys_to_keys_and_values(name):
    config = with_sparse(parse(by_name(name).raw), "on")
    assert config.layers[0].mixer.sparse == SparseConfig()
    formula = keys_and_values(32, 2, 128) + compressed_keys(32, 2, 128)
    assert held(config) == pytest.approx(formula, rel=SHARE)
    assert cache_bytes(config, TOKENS, "bfloat16") == held(config)


def test_a_latent_cache_holds_288_numbers_per_token_and_layer():
    config = parse(by_name("MiniCPM3-4B").raw)
    formula = 62 * TOKENS * 288 * BFLOAT16
    assert held(config) == pytest.approx(formula, rel=SHARE)
    assert cache_bytes(config, TOKENS, "bfloat16") == held(config)


def test_a_hybrid_cache_holds_few_layers_of_keys_and_states_of_48_mib():
    config = parse(by_name("MiniCPM-SALA").raw)
    pages = keys_and_values(8, 2, 128) + compressed_keys(8, 2, 128)
    state = 24 * 32 * 128 * 128 * 4
    assert state == 48 * 2**20
    assert held(config) == pytest.approx(pages, rel=SHARE)
    formula = pages + (1 + STATE_MARKS) * state  # the state to go on from, and marks to go back to
    assert cache_bytes(config, TOKENS, "bfloat16") == pytest.approx(formula, rel=SHARE)
