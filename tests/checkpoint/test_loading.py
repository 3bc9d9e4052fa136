"""A load is strict: everything is checked before a tensor is read, and each problem has its own error."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minicpm.checkpoint import filling, load, load_decoder, open_checkpoint
from minicpm.errors import (
    BadConfig,
    BadParameter,
    CapacityError,
    NotFinite,
    TokenizerMismatch,
    UnknownModel,
    UnreadConfig,
    WeightMismatch,
)
from minicpm.testing import families, tiny_checkpoint


def edit(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(folder: Path, change) -> None:
    """Rewrite the weights as one file after `change(tensors)`."""
    tensors = {}
    for shard in sorted(folder.glob("model-*.safetensors")):
        tensors |= load_file(shard)
        shard.unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture
def untouched(monkeypatch):
    """Fails the test when a tensor is read."""

    def refuse(*_args, **_options):
        raise AssertionError("a tensor was read before everything was checked")

    monkeypatch.setattr(filling, "read_tensor", refuse)
    monkeypatch.setattr(filling, "read_into", refuse)


@pytest.mark.parametrize("family", families())
def test_every_family_loads_with_the_bits_of_its_file(family, tmp_path):
    opened = open_checkpoint(tiny_checkpoint(family, tmp_path))
    decoder = load(opened, prepare=False)
    for name, parameter in decoder.named_parameters():
        assert torch.equal(parameter, opened.read(name)), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "fp32", "bf16", "fp16", torch.bfloat16])
def test_weights_are_cast_as_torch_casts_them(tiny, dtype):
    opened = open_checkpoint(tiny)
    decoder = load(opened, dtype=dtype, prepare=False)
    for name, parameter in decoder.named_parameters():
        assert torch.equal(parameter, opened.read(name).to(decoder.dtype)), name


def test_auto_takes_the_dtype_of_the_config_whatever_the_file_holds(tiny):
    edit(tiny, torch_dtype="bfloat16")
    assert load(open_checkpoint(tiny)).dtype == torch.bfloat16


def test_a_prepared_decoder_gives_the_logits_of_an_unprepared_one(tiny):
    opened = open_checkpoint(tiny)
    ids = [1, 5, 9, 3]
    plain, fused = load(opened, prepare=False).logits_for(ids), load(opened).logits_for(ids)
    assert torch.allclose(plain, fused, rtol=1e-5, atol=1e-5)


def test_an_unprepared_decoder_can_be_trained(tiny):
    decoder = load(open_checkpoint(tiny), prepare=False)
    decoder.logits_for([1, 2, 3]).sum().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_load_decoder_takes_a_path(tiny):
    assert load_decoder(tiny).config.family == "minicpm4"
    assert load_decoder(str(tiny), dtype="bf16").dtype == torch.bfloat16


def test_progress_ends_at_the_total(tiny):
    opened, seen = open_checkpoint(tiny), []
    load(opened, progress=lambda *step: seen.append(step))
    assert seen[-1][0] == seen[-1][1] == opened.total_bytes
    assert [step[0] for step in seen] == sorted(step[0] for step in seen)


@pytest.mark.parametrize("dtype", ["int8", "float64", "", "FLOAT32", "q4", "torch.int8"])
def test_a_wrong_dtype_lists_the_right_ones(tiny, dtype, untouched):
    with pytest.raises(BadParameter, match="auto, float32, bfloat16, float16"):
        load(open_checkpoint(tiny), dtype=dtype)


def test_a_wrong_dtype_in_the_config_blames_the_config(tiny, untouched):
    edit(tiny, torch_dtype="int4")
    with pytest.raises(BadConfig, match="int4"):
        load(open_checkpoint(tiny))


def test_an_unknown_backend_is_refused_before_weights_are_read(tiny, untouched):
    with pytest.raises(BadParameter, match="reference"):
        load(open_checkpoint(tiny), backend="abacus")


def test_memory_that_the_system_refuses_is_a_typed_error(tiny, untouched, monkeypatch):
    def refuse(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("minicpm.checkpoint.loading.allocate", refuse)
    with pytest.raises(CapacityError, match="was refused"):
        load(open_checkpoint(tiny))


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "nowhere", "vulkan:7"])
def test_a_wrong_device_is_refused(tiny, device, untouched):
    with pytest.raises(BadParameter, match="device"):
        load(open_checkpoint(tiny), device=device)


def test_all_differences_come_in_one_message(tiny, untouched):
    def change(tensors):
        tensors["model.norm.wrong"] = tensors.pop("model.norm.weight")
        tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 5)
        tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"].to(
            torch.int8
        )

    rewrite(tiny, change)
    with pytest.raises(WeightMismatch) as caught:
        load(open_checkpoint(tiny))
    message = str(caught.value)
    assert "1 missing: model.norm.weight" in message
    assert "1 unexpected: model.norm.wrong" in message
    assert "1 of the wrong shape: model.layers.0.mlp.up_proj.weight is [3 x 5], needed [96 x 64]" in message
    assert "1 not in a floating-point format: model.layers.1.mlp.up_proj.weight is I8" in message


def test_long_lists_of_differences_are_sorted_and_shortened(tiny, untouched):
    rewrite(tiny, lambda tensors: tensors.update({f"extra.{i:03}": torch.zeros(1) for i in range(50)}))
    with pytest.raises(WeightMismatch, match=r"50 unexpected: extra\.000, .*extra\.019, and 30 more"):
        load(open_checkpoint(tiny))


def test_computed_rotary_tables_and_a_tied_head_are_ignored(tiny):
    def change(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        for name in ("inv_freq", "cos_cached", "sin_cached"):
            tensors[f"model.layers.0.self_attn.rotary_emb.{name}"] = torch.zeros(8)

    expected = load(open_checkpoint(tiny)).logits_for([1, 2])
    rewrite(tiny, change)
    assert torch.equal(load(open_checkpoint(tiny)).logits_for([1, 2]), expected)


def test_an_untied_model_needs_its_head(tmp_path, untouched):
    folder = tiny_checkpoint("minicpm4-8b", tmp_path)
    rewrite(folder, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(WeightMismatch, match=r"1 missing: lm_head\.weight"):
        load(open_checkpoint(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_every_tensor_that_is_not_finite_is_named(tiny, value):
    names = ("model.layers.1.mlp.down_proj.weight", "model.norm.weight")

    def change(tensors):
        for name in names:
            tensors[name].view(-1)[-1] = value

    rewrite(tiny, change)
    for dtype in ("auto", "bfloat16"):
        with pytest.raises(NotFinite, match="2 tensors") as caught:
            load(open_checkpoint(tiny), dtype=dtype)
        assert all(name in str(caught.value) for name in names)
        assert "overflow in" not in str(caught.value).partition("Every answer")[0]


def test_values_that_overflow_in_the_cast_are_told_apart(tiny):
    rewrite(tiny, lambda tensors: tensors["model.norm.weight"].fill_(1e6))
    load(open_checkpoint(tiny))
    with pytest.raises(NotFinite, match=r"model\.norm\.weight .*overflow in float16"):
        load(open_checkpoint(tiny), dtype="float16")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_finite_means_no_nan_and_no_infinity_anywhere(dtype):
    tensor = torch.randn(1037).to(dtype)
    assert filling.is_finite(tensor)
    assert filling.is_finite(torch.empty(0, dtype=dtype))
    for value in (float("nan"), float("inf"), float("-inf")):
        for place in range(0, 1037, 5):
            bad = tensor.clone()
            bad[place] = value
            assert not filling.is_finite(bad)


def test_an_unknown_architecture_is_refused_by_name(tiny, untouched):
    edit(tiny, architectures=["GPTForCausalLM"])
    with pytest.raises(UnknownModel, match="GPTForCausalLM"):
        load(open_checkpoint(tiny))


def test_a_half_known_config_is_refused(tiny, untouched):
    edit(tiny, rotary_flavour="new")
    with pytest.raises(UnreadConfig, match="rotary_flavour"):
        load(open_checkpoint(tiny))


def test_a_tokenizer_larger_than_the_embedding_is_refused_before_weights_are_compared(tiny, untouched):
    vocab = json.loads((tiny / "config.json").read_text())["vocab_size"]
    edit(tiny, vocab_size=vocab - 3)
    with pytest.raises(TokenizerMismatch, match=rf"{vocab - 3} rows.*tokenizer\.json has id {vocab - 1}"):
        load(open_checkpoint(tiny))


def test_a_context_beyond_the_memory_is_refused_with_numbers(tiny, untouched, monkeypatch):
    from minicpm.checkpoint import plan
    from minicpm.checkpoint.available import Limit

    monkeypatch.setattr(plan, "memory_limits", lambda: [Limit("the machine's available memory", 1 << 20)])
    with pytest.raises(CapacityError, match=r"weights as float32.*cache of 8192 tokens.*leaves"):
        load(open_checkpoint(tiny), context=8192)


def test_a_context_that_is_asked_for_is_in_the_config(tiny):
    assert load(open_checkpoint(tiny), context=777).config.context == 777


def test_a_context_beyond_reach_is_refused(tiny, untouched):
    with pytest.raises(BadParameter, match="context"):
        load(open_checkpoint(tiny), context=10**9)
