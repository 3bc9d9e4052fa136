"""A LoRA for llama.cpp says the same update, with rows in the order of the base's; the rest is refused."""

import pytest
import torch

from minicpm.checkpoint import open_checkpoint
from minicpm.checkpoint.adapters import open_adapter
from minicpm.checkpoint.gguf.decoding import decode_blocks, read_rows
from minicpm.checkpoint.gguf.reading import read_gguf
from minicpm.checkpoint.reading import read_tensor
from minicpm.checkpoint.row_order import from_pairs
from minicpm.convert.lora_export import lora_to_gguf
from minicpm.errors import BadInput, WeightMismatch
from minicpm.testing import tiny_checkpoint
from minicpm.testing.tiny_lora import tiny_adapter

PUBLISHED = "base_model.model.model.layers.1."
HEADS = {"attn_q": 4, "attn_k": 2}


@pytest.fixture
def base(tmp_path):
    return open_checkpoint(tiny_checkpoint("minicpm-1b", tmp_path / "base"))


def made(tmp_path, base, targets=("q_proj", "k_proj", "down_proj"), **settings):
    adapter = open_adapter(tiny_adapter(tmp_path / "adapter", base.path, targets, **settings))
    return adapter, lora_to_gguf(adapter, base, tmp_path / "lora")


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"alpha_pattern": {"k_proj": 3}}])
def test_the_update_is_the_one_that_was_trained(tmp_path, base, settings):
    adapter, outcome = made(tmp_path, base, **settings)
    file = read_gguf(next(outcome.path.glob("*.gguf")))
    alpha = file.metadata["adapter.lora.alpha"]
    places = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "mlp.down_proj": "ffn_down"}
    for module, place in places.items():
        a, b = (
            decode_blocks(tensor.type, read_rows(tensor))
            for tensor in (file.tensors[f"blk.1.{place}.weight.lora_{part}"] for part in "ab")
        )
        theirs = alpha / b.shape[1] * (b @ a)
        theirs = from_pairs(theirs, HEADS[place]) if place in HEADS else theirs
        published = [read_tensor(adapter.tensors[f"{PUBLISHED}{module}.lora_{part}.weight"]) for part in "AB"]
        mine = adapter.settings.scale_of(f"model.layers.1.{module}") * (published[1] @ published[0])
        torch.testing.assert_close(theirs, mine, rtol=1e-5, atol=1e-6)


def test_the_file_says_that_it_is_an_adapter_of_this_architecture(tmp_path, base):
    _, outcome = made(tmp_path, base)
    metadata = read_gguf(next(outcome.path.glob("*.gguf"))).metadata
    said = {key: metadata[key] for key in ("general.architecture", "general.type", "adapter.type")}
    assert said == {"general.architecture": "minicpm", "general.type": "adapter", "adapter.type": "lora"}
    assert sorted(outcome.files) == ["SHA256SUMS", "adapter-lora.gguf"]
    with pytest.raises(BadInput, match="is no model"):
        open_checkpoint(next(outcome.path.glob("*.gguf")))


def test_a_dry_run_tells_the_bytes(tmp_path, base):
    adapter, outcome = made(tmp_path, base)
    told = lora_to_gguf(adapter, base, tmp_path / "other", dry_run=True)
    assert told.files == {name: size for name, size in outcome.files.items() if name.endswith(".gguf")}
    assert not (tmp_path / "other").exists()


def test_magnitudes_are_refused(tmp_path, base):
    with pytest.raises(BadInput, match="DoRA"):
        made(tmp_path, base, use_dora=True)


@pytest.mark.parametrize(
    ("name", "target", "more"),
    [("minicpm3-4b", "q_b_proj", {"dim_model_base": 256}), ("minicpm-moe-8x2b", "w1", {})],
)
def test_what_llama_cpp_leaves_out_is_refused(tmp_path, name, target, more):
    base = open_checkpoint(tiny_checkpoint(name, tmp_path / "base", **more))
    with pytest.raises(BadInput, match=rf"{target}.*without a word"):
        made(tmp_path, base, (target,))


def test_an_adapter_of_another_model_is_refused(tmp_path, base):
    other = open_checkpoint(tiny_checkpoint("minicpm5-1b", tmp_path / "other"))
    adapter = open_adapter(tiny_adapter(tmp_path / "adapter", base.path))
    with pytest.raises(WeightMismatch, match="does not fit"):
        lora_to_gguf(adapter, other, tmp_path / "lora")
