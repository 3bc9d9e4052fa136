"""Every published model, at its real size: parameter counts, bytes, names and shapes."""

import pytest
import torch

from minicpm.config import GQA, MLA, Dense, InfLLM, Lightning, MoE, Relevance, parameter_count
from minicpm.config.memory import cache_bytes, weight_bytes
from minicpm.models.build import build
from minicpm.models.decoder import Decoder
from minicpm.models.published import by_name, published
from minicpm.models.registry import families, family, parse
from minicpm.models.trunk import Trunk

# Number of weights, as counted from the published shapes.
COUNTS = {
    "MiniCPM-2B": 2_724_880_896,
    "MiniCPM-1B": 1_360_246_272,
    "MiniCPM-MoE-8x2B": 13_873_291_776,
    "MiniCPM-S-1B": 1_360_246_272,
    "MiniCPM-2B-128k": 2_442_057_984 + 2 * 122_760 * 2304,
    "MiniCPM3-4B": 4_073_875_968,
    "MiniCPM4-8B": 8_185_253_888,
    "MiniCPM4-0.5B": 433_873_920,
    "MiniCPM4.1-8B": 8_185_253_888,
    "MiniCPM-SALA": 9_477_203_968,
    "BitCPM4-1B": 1_360_258_560,
    "BitCPM4-0.5B": 433_873_920,
    "MiniCPM-2B-llama-format": 2_442_057_984 + 2 * 122_753 * 2304,
    "MiniCPM5-1B": 1_080_632_832,
    "MiniCPM-V": 3_152_142_880,
    "OmniLMM-12B": 11_614_352_128,
    "MiniCPM-Embedding": 2_724_880_896,
    "MiniCPM-Reranker": 2_724_880_896 + 2304,
}

EVERY_ROW = pytest.mark.parametrize("row", published(), ids=lambda row: row.name)


def on_meta(row) -> Trunk:
    with torch.device("meta"):
        return build(parse(row.raw))


@EVERY_ROW
def test_the_model_on_the_meta_device_has_exactly_the_published_number_of_weights(row):
    built = sum(weight.numel() for weight in on_meta(row).parameters())
    assert built == parameter_count(parse(row.raw)) == COUNTS[row.name]
    assert row.parameters in (None, built)


def mixer_shapes(hidden, mixer) -> dict[str, tuple[int, ...]]:
    queries, keys = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
    shapes = {
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
    }
    match mixer:
        case GQA(gated=False):
            return shapes
        case GQA(gated=True):
            return shapes | {"o_gate": (queries, hidden)}
        case MLA():
            return {
                "q_a_proj": (mixer.q_rank, hidden),
                "q_a_layernorm": (mixer.q_rank,),
                "q_b_proj": (queries, mixer.q_rank),
                "kv_a_proj_with_mqa": (mixer.kv_rank + mixer.rope, hidden),
                "kv_a_layernorm": (mixer.kv_rank,),
                "kv_b_proj": (mixer.heads * (mixer.nope + mixer.value), mixer.kv_rank),
                "o_proj": (hidden, mixer.heads * mixer.value),
            }
        case InfLLM():
            return mixer_shapes(hidden, mixer.attention)
        case Lightning():
            norms = {"q_norm": (mixer.head_dim,), "k_norm": (mixer.head_dim,), "o_norm": (queries,)}
            return shapes | norms | {"z_proj": (queries, hidden)}


def ffn_shapes(hidden, ffn) -> dict[str, tuple[int, ...]]:
    into, out = (ffn.intermediate, hidden), (hidden, ffn.intermediate)
    match ffn:
        case Dense():
            return {"gate_proj": into, "up_proj": into, "down_proj": out}
        case MoE():
            each = {"w1": into, "w2": out, "w3": into}
            experts = {
                f"experts.{j}.{name}": shape for j in range(ffn.experts) for name, shape in each.items()
            }
            return experts | {"gate": (ffn.experts, hidden)}


@EVERY_ROW
def test_names_and_shapes_are_the_published_ones(row):
    config = parse(row.raw)
    ffn = config.layers[0].ffn
    wanted = {
        "model.embed_tokens.weight": (config.vocab, config.hidden),
        "model.norm.weight": (config.hidden,),
    }
    if not config.tied:
        wanted["lm_head.weight"] = (config.vocab, config.hidden)
    if isinstance(config.head, Relevance):
        wanted["score.weight"] = (1, config.hidden)
    for i in range(row.raw["num_hidden_layers"]):
        mixer = mixer_shapes(config.hidden, config.layers[i].mixer)
        layer = {f"self_attn.{name}": shape for name, shape in mixer.items()} | {
            "input_layernorm": (config.hidden,),
            "post_attention_layernorm": (config.hidden,),
        }
        layer |= {f"mlp.{name}": shape for name, shape in ffn_shapes(config.hidden, ffn).items()}
        wanted |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    seeing = ("vpm.", "resampler.", "model.vision_tower.", "model.resampler.")
    found = {name: tuple(weight.shape) for name, weight in on_meta(row).named_parameters()}
    prefix = "llm." if row.family == "minicpm-v" else ""
    assert {name: shape for name, shape in found.items() if not name.startswith(seeing)} == {
        prefix + name: shape for name, shape in wanted.items()
    }


@EVERY_ROW
def test_construction_leaves_no_tables_in_buffers(row):
    assert list(on_meta(row).buffers()) == []


@EVERY_ROW
def test_every_row_is_read_as_its_own_family(row):
    assert parse(row.raw).family == row.family
    assert family(row.family) in families()


def test_every_family_has_a_published_model():
    assert {row.family for row in published()} == {known.name for known in families()}


def test_bytes_follow_from_the_config_alone():
    config = parse(by_name("MiniCPM4-8B").raw)
    assert weight_bytes(config, "bfloat16") == 2 * 8_185_253_888
    # 32 layers of keys and values, 2 heads 128 wide, for 2048 pages of 64 tokens.
    assert cache_bytes(config, 131072, "bfloat16") == 32 * 2 * 2 * 128 * 131072 * 2
    assert cache_bytes(config, 1, "bfloat16") == cache_bytes(config, 64, "bfloat16")


def test_the_counted_cache_bytes_are_those_a_cache_takes():
    config = parse(by_name("MiniCPM4-0.5B").raw)
    with torch.device("meta"):
        cache = Decoder(config).new_cache(3, dtype=torch.bfloat16)
    assert cache.nbytes == cache_bytes(config, 3 * 64, "bfloat16")


@pytest.mark.parametrize(
    ("name", "scale", "residual", "logit"),
    [
        ("MiniCPM-2B", 12, 0.2213594362, 9),
        ("MiniCPM-1B", 12, 0.1941450687, 6),
        ("MiniCPM3-4B", 12, 0.1778001778, 10),
        ("MiniCPM4-8B", 12, 0.2474873734, 16),
        ("MiniCPM4-0.5B", 12, 0.2857738033, 4),
        ("MiniCPM5-1B", 1, 1, 1),
    ],
)
def test_scales_are_resolved_as_published(name, scale, residual, logit):
    config = parse(by_name(name).raw)
    assert (config.embed_scale, config.logit_scale) == (scale, logit)
    assert config.residual_scale == pytest.approx(residual, rel=1e-9)


def test_minicpm5_heads_are_wider_than_its_stream():
    config = parse(by_name("MiniCPM5-1B").raw)
    assert config.layers[0].mixer == GQA(heads=16, kv_heads=2, head_dim=128)
    assert config.hidden == 1536
