"""Names and row orders go both ways."""

import pytest
import torch

from minicpm.checkpoint.gguf.names import paired_heads, place_of, published_names
from minicpm.checkpoint.row_order import from_pairs, to_pairs
from minicpm.models.build import build
from minicpm.models.published import by_name
from minicpm.models.registry import parse
from minicpm.ops.quant_tensor import decode
from minicpm.quant.rounding import round_to

NAMES = ["MiniCPM-2B", "MiniCPM-MoE-8x2B", "MiniCPM3-4B", "MiniCPM4-0.5B", "MiniCPM5-1B"]


@pytest.mark.parametrize("name", NAMES)
def test_every_published_weight_has_a_name_that_leads_back(name):
    config = parse(by_name(name).raw)
    with torch.device("meta"):
        weights = [name for name, _ in build(config).named_parameters()]
    places = {weight: place_of(weight) for weight in weights}
    for weight, place in places.items():
        back = published_names(place.name, 8)
        assert back[place.expert or 0] == weight
        assert len(back) == (1 if place.expert is None else 8)
    assert len({(place.name, place.expert) for place in places.values()}) == len(weights)


def test_experts_of_older_files_have_names_of_their_own():
    assert published_names("blk.3.ffn_gate.5.weight", 8) == ["model.layers.3.mlp.experts.5.w1.weight"]
    assert published_names("blk.3.ffn_down.0.weight", 8) == ["model.layers.3.mlp.experts.0.w2.weight"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".weight",
        "blk.weight",
        "blk.x.attn_q.weight",
        "blk.0.attn_q.bias",
        "blk.0.attn_qkv.weight",
        "a/../b",
    ],
)
def test_other_names_lead_nowhere(name):
    assert published_names(name, 8) is None


@pytest.mark.parametrize("name", ["model.embed_tokens", "model.layers.0.mlp.up_proj.bias", "lm_head.weight2"])
def test_other_published_names_have_no_place(name):
    assert place_of(name) is None


def test_rows_are_paired_as_the_converter_of_llama_cpp_does_it():
    heads, width = 3, 8
    weight = torch.arange(heads * width * 2.0).reshape(-1, 2)
    pairs = weight.reshape(heads, 2, width // 2, 2).swapaxes(1, 2).reshape(weight.shape)
    assert torch.equal(to_pairs(weight, heads), pairs)
    assert torch.equal(from_pairs(pairs, heads), weight)


def test_packed_rows_move_without_being_decoded():
    packed = round_to(torch.randn(24, 64, dtype=torch.bfloat16), 4)
    moved = to_pairs(packed, 3)
    assert torch.equal(decode(moved), to_pairs(decode(packed), 3))
    assert torch.equal(decode(from_pairs(moved, 3)), decode(packed))


def test_only_queries_and_keys_of_rotated_pairs_are_reordered():
    config = parse(by_name("MiniCPM-1B").raw)
    layer = "model.layers.0.self_attn."
    assert paired_heads("minicpm", f"{layer}q_proj.weight", config) == 24
    assert paired_heads("llama", f"{layer}k_proj.weight", config) == 8
    assert paired_heads("minicpm", f"{layer}v_proj.weight", config) is None
    latent = parse(by_name("MiniCPM3-4B").raw)
    assert paired_heads("minicpm3", f"{layer}q_b_proj.weight", latent) is None
