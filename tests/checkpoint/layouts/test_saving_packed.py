"""A model is saved in its codes, and opened again it is the same to the last bit."""

import json

import pytest
import torch

import minicpm
from minicpm.checkpoint import load, open_checkpoint, save, save_packed
from minicpm.errors import BadParameter
from minicpm.ops.native import absence
from minicpm.ops.quant_tensor import QuantTensor
from minicpm.testing import families, tiny_checkpoint

IDS = torch.arange(40) % 23


@torch.no_grad()
def logits(folder, **options):
    return load(open_checkpoint(folder), backend="torch", **options).logits_for(IDS)


@pytest.mark.parametrize("prepare", [True, False])
def test_saved_in_our_layout_and_reopened_it_has_the_same_logits(pair, prepare, tmp_path):
    model = load(open_checkpoint(pair.quantized), backend="torch", prepare=prepare)
    saved = save_packed(model, tmp_path / "saved", source=pair.quantized)
    opened = open_checkpoint(saved)
    assert {source.title for source in opened.packed.values()} == {"minicpm"}
    assert set(opened.packed) == set(open_checkpoint(pair.quantized).packed)
    assert torch.equal(logits(saved), logits(pair.quantized))
    raw = json.loads((saved / "config.json").read_text())
    assert raw["quantization_config"]["quant_method"] == "minicpm"
    assert "quantization" not in raw


def test_saved_twice_it_is_the_same_file(pair, tmp_path):
    first = save_packed(load(open_checkpoint(pair.quantized), prepare=False), tmp_path / "first")
    then = save_packed(load(open_checkpoint(first), prepare=False), tmp_path / "then")
    for name in ("config.json", "model.safetensors"):
        assert (first / name).read_bytes() == (then / name).read_bytes()


@pytest.mark.parametrize("weights", ["int8", "int4", "packed", "ternary"])
def test_weights_rounded_or_packed_while_loading_are_saved_as_they_are_held(weights, tmp_path):
    folder = tiny_checkpoint("bitcpm4-1b", tmp_path / "source", dtype="bfloat16")
    model = load(open_checkpoint(folder), weights=weights, backend="torch", prepare=False)
    saved = save_packed(model, tmp_path / "saved", source=folder)
    assert torch.equal(logits(saved), logits(folder, weights=weights))
    assert open_checkpoint(saved).total_bytes < open_checkpoint(folder).total_bytes


def test_a_model_without_codes_is_saved_as_any(tmp_path):
    folder = tiny_checkpoint("minicpm-2b", tmp_path / "source")
    saved = save_packed(load(open_checkpoint(folder)), tmp_path / "saved", source=folder)
    assert json.loads((saved / "config.json").read_text()) == json.loads((folder / "config.json").read_text())
    first, then = open_checkpoint(folder), open_checkpoint(saved)
    assert set(first.tensors) == set(then.tensors)
    assert all(torch.equal(first.read(name), then.read(name)) for name in first.tensors)


def test_saved_decoded_it_says_nothing_of_codes(pair, tmp_path):
    saved = save(load(open_checkpoint(pair.quantized), prepare=False), tmp_path / "saved")
    opened = open_checkpoint(saved)
    assert not opened.packed
    assert not {"quantization_config", "quantization"} & opened.raw_config.keys()
    assert torch.equal(logits(saved), logits(pair.plain))


def test_one_matrix_is_looked_at_at_a_time(pair, tmp_path, monkeypatch):
    """Nothing is decoded on the way."""
    from minicpm.layers import quant_linear

    monkeypatch.setattr(quant_linear, "decode_by_byte", lambda weight: pytest.fail("decoded"))
    model = load(open_checkpoint(pair.quantized), prepare=False)
    save_packed(model, tmp_path / "saved", max_shard_bytes=30_000)
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 1


@pytest.mark.skipif(absence() is not None, reason="needs the compiled part; `make setup` builds it")
def test_codes_in_the_layout_of_the_kernels_are_refused_with_the_way_out(make, tmp_path):
    model = minicpm.load_decoder(make("gptq 4").quantized, backend="native")
    with pytest.raises(BadParameter, match="prepare=False"):
        save_packed(model, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("family", families())
def test_every_model_comes_back_to_the_last_bit(family, tmp_path):
    """Experts, latents, thresholds, recurrent layers and towers among them."""
    folder = tiny_checkpoint(family, tmp_path / "source", dtype="bfloat16")
    model = load(open_checkpoint(folder), weights="int4", prepare=False)
    saved = save_packed(model, tmp_path / "saved", source=folder)
    assert torch.equal(logits(saved), logits(folder, weights="int4"))
    if absence() is None:
        first, then = (load(open_checkpoint(saved), backend="native") for _ in range(2))
        assert torch.equal(first.logits_for(IDS), then.logits_for(IDS))


def test_a_vision_model_keeps_its_published_names(tmp_path):
    folder = tiny_checkpoint("minicpm-v", tmp_path / "source")
    model = load(open_checkpoint(folder), weights="int8", prepare=False)
    saved = save_packed(model, tmp_path / "saved", source=folder)
    opened = open_checkpoint(saved)
    assert {*opened.tensors, *opened.packed} == set(open_checkpoint(folder).tensors)
    assert isinstance(next(iter(opened.packed.values())).read(torch.bfloat16), QuantTensor)
    assert torch.equal(logits(saved), logits(folder, weights="int8"))
