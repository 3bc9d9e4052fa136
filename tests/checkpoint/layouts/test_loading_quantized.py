"""A quantized checkpoint is loaded in its codes and computes what its plain twin does."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import minicpm
from minicpm.checkpoint import load, open_checkpoint, packed_cache
from minicpm.errors import (
    BadParameter,
    CapacityError,
    MalformedFile,
    NotFinite,
    UnknownFormat,
    WeightMismatch,
)
from minicpm.layers.native_linear import NativeLinear
from minicpm.layers.quant_embedding import QuantEmbedding
from minicpm.layers.quant_linear import QuantLinear
from minicpm.ops.native import absence
from minicpm.ops.quant_tensor import decode

IDS = torch.arange(40) % 23
needs_native = pytest.mark.skipif(
    absence() is not None, reason="needs the compiled part; `make setup` builds it"
)


@torch.no_grad()
def logits(decoder):
    return decoder.logits_for(IDS)


def held(decoder):
    return {name: part for name, part in decoder.named_modules() if isinstance(part, QuantLinear)}


def change(folder, edit):
    """Let `edit` change the tensors of a folder."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def with_config(folder, **changes):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | changes))


@pytest.mark.parametrize("prepare", [True, False])
def test_logits_keep_every_bit_of_the_decoded_weights(pair, prepare):
    quantized = minicpm.load_decoder(pair.quantized, backend="torch", prepare=prepare)
    plain = minicpm.load_decoder(pair.plain, backend="torch", prepare=prepare)
    assert set(held(quantized)) == set(pair.matrices)
    assert torch.equal(logits(quantized), logits(plain))


def test_in_float32_weights_are_what_their_codes_say(pair):
    decoder = minicpm.load_decoder(pair.quantized, dtype="float32", prepare=False)
    for name, part in held(decoder).items():
        weight = pair.matrices[name]
        exact = decode(replace(weight, result=torch.float32))
        assert torch.equal(part.weight, exact), name
    assert logits(decoder).dtype == torch.float32


@needs_native
def test_native_logits_differ_by_the_rounding_of_activations(pair):
    found = logits(minicpm.load_decoder(pair.quantized, backend="native"))
    wanted = logits(minicpm.load_decoder(pair.plain, backend="reference"))
    assert ((found - wanted).norm() / wanted.norm()).item() < 2e-2


@needs_native
@pytest.mark.parametrize(
    "name", ["gptq 4", "gptq 8", "gptq v2 asymmetric", "gptq 3", "awq", "marlin", "cpm.cu"]
)
def test_natively_the_kernels_hold_the_formats_that_they_know(name, make):
    decoder = minicpm.load_decoder(make(name).quantized, backend="native")
    layer = decoder.model.layers[0]
    assert isinstance(layer.self_attn.q_proj, NativeLinear)
    assert layer.self_attn.q_proj.matrix.bits in (4, 8)


def test_an_embedding_in_codes_is_held_so(make):
    decoder = minicpm.load_decoder(make("mlx 4", tie_word_embeddings=False).quantized, prepare=False)
    assert type(decoder.model.embed_tokens) is QuantEmbedding
    assert type(decoder.lm_head) is QuantLinear


@pytest.mark.parametrize("bits", [5, 6])
def test_bits_that_no_packed_matrix_has_are_decoded(bits, make, tmp_path):
    from minicpm.checkpoint.layouts import mlx

    pair = make("mlx 4")
    generator = torch.Generator().manual_seed(bits)
    wanted = {}

    def widen(tensors):
        for module, weight in pair.matrices.items():
            outputs, inputs = weight.shape
            words = torch.randint(-(2**31), 2**31, (outputs, inputs * bits // 32), generator=generator)
            own = mlx.Mlx(words.to(torch.int32).view(torch.uint32), weight.scales, weight.offsets)
            tensors[f"{module}.weight"] = own.weight
            wanted[f"{module}.weight"] = mlx.unpack(own, bits=bits, group=64, dtype=torch.bfloat16)

    change(pair.quantized, widen)
    with_config(pair.quantized, quantization={"group_size": 64, "bits": bits})
    change(pair.plain, lambda tensors: tensors.update(wanted))
    decoder = minicpm.load_decoder(pair.quantized, backend="torch")
    assert held(decoder) == {}
    assert torch.equal(logits(decoder), logits(minicpm.load_decoder(pair.plain, backend="torch")))


def test_modules_may_have_settings_of_their_own(make):
    from minicpm.checkpoint.layouts import mlx

    pair = make("mlx 4")
    module = "model.layers.1.mlp.down_proj"
    weight = pair.matrices[module]
    generator = torch.Generator().manual_seed(5)
    words = torch.randint(-(2**31), 2**31, (weight.shape[0], weight.shape[1] // 4), generator=generator)
    own = mlx.Mlx(words.to(torch.int32).view(torch.uint32), weight.scales, weight.offsets)
    change(pair.quantized, lambda tensors: tensors.update({f"{module}.weight": own.weight}))
    settings = {"group_size": 64, "bits": 4, module: {"group_size": 64, "bits": 8}, "lm_head": False}
    with_config(pair.quantized, quantization=settings)
    wanted = decode(mlx.unpack(own, bits=8, group=64, dtype=torch.bfloat16))
    change(pair.plain, lambda tensors: tensors.update({f"{module}.weight": wanted}))
    found = minicpm.load_decoder(pair.quantized, backend="torch")
    assert torch.equal(logits(found), logits(minicpm.load_decoder(pair.plain, backend="torch")))
    assert found.model.layers[1].mlp.down_proj.scheme.bits == 8


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_only_what_is_not_in_codes_is_rounded(weights, make):
    pair = make("gptq 4", tie_word_embeddings=False)
    decoder = minicpm.load_decoder(pair.quantized, weights=weights, prepare=False)
    parts = held(decoder)
    assert parts["lm_head"].scheme.bits == 8
    for name, weight in pair.matrices.items():
        assert torch.equal(parts[name].codes, weight.codes)
    assert set(parts) == {*pair.matrices, "lm_head"}


@pytest.mark.parametrize("weights", ["packed", "ternary"])
def test_weights_in_codes_are_not_packed_again(weights, make):
    with pytest.raises(BadParameter, match=r"21 matrices in codes already \(gptq 4 bits, groups of 64\)"):
        minicpm.load_decoder(make("gptq 4").quantized, weights=weights)


@pytest.mark.parametrize("unequal", [False, True])
def test_an_index_in_the_order_of_activations_is_obeyed(unequal, make):
    pair = make("gptq 4")
    module = "model.layers.0.mlp.up_proj"
    shuffled = torch.randperm(128, generator=torch.Generator().manual_seed(1))
    index = (torch.arange(128) // 64)[shuffled]
    if unequal:
        index[index.argmax()] = 0
        with_config(pair.quantized, quantization_config={"quant_method": "gptq", "bits": 4, "desc_act": True})
    change(pair.quantized, lambda tensors: tensors.update({f"{module}.g_idx": index.to(torch.int32)}))
    weight = pair.matrices[module]
    from minicpm.ops.quant_tensor import unpack_codes

    codes = unpack_codes(weight.codes, 4, 128).float()
    wanted = ((codes - 8) * weight.scales.float()[:, index]).bfloat16()
    change(pair.plain, lambda tensors: tensors.update({f"{module}.weight": wanted}))
    found = minicpm.load_decoder(pair.quantized, backend="torch")
    assert module not in held(found)
    assert torch.equal(logits(found), logits(minicpm.load_decoder(pair.plain, backend="torch")))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda index: index.fill_(7), "g_idx names groups 0 to 7, and there are scales of groups 0 to 1"),
        (lambda index: index.fill_(-1), "names groups -1 to"),
        (lambda index: index.fill_(0), "2 of 2 groups another size than 64"),
    ],
)
def test_an_index_that_contradicts_its_groups_is_refused_with_the_numbers(edit, said, make):
    folder = make("gptq 4").quantized
    change(folder, lambda tensors: edit(tensors["model.layers.2.mlp.up_proj.g_idx"][3:]))
    with pytest.raises(MalformedFile, match=r"model\.layers\.2\.mlp\.up_proj\.weight") as caught:
        minicpm.load_decoder(folder)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["gptq 4", "awq", "marlin", "mlx 4", "own"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_scales_that_are_not_finite_are_refused_by_name(name, value, make):
    folder = make(name).quantized

    def spoil(tensors):
        for end in ("scales", "s"):
            if (scales := tensors.get(f"model.layers.1.mlp.gate_proj.{end}")) is not None:
                scales[1, 0] = value

    change(folder, spoil)
    with pytest.raises(NotFinite, match=r"1 tensors .*model\.layers\.1\.mlp\.gate_proj\.weight"):
        minicpm.load_decoder(folder)


def test_weights_that_overflow_the_dtype_are_refused(make):
    folder = make("mlx 4").quantized
    change(folder, lambda tensors: tensors["model.layers.0.mlp.up_proj.scales"].fill_(1e4))
    assert minicpm.load_decoder(folder, prepare=False)
    with pytest.raises(NotFinite, match="up_proj"):
        minicpm.load_decoder(folder, dtype="float16", prepare=False)


def test_a_matrix_of_another_shape_is_refused_as_any_is(make):
    folder = make("gptq 4").quantized
    with_config(folder, intermediate_size=320)
    with pytest.raises(WeightMismatch, match=r"up_proj.weight is \[256 x 128\], needed \[320 x 128\]"):
        minicpm.load_decoder(folder)


def test_a_matrix_that_is_missing_is_told_by_the_name_of_its_weight(make):
    folder = make("own").quantized
    change(folder, lambda t: [t.pop(f"model.layers.0.mlp.up_proj.{e}") for e in ("codes", "scales", "zeros")])
    with pytest.raises(WeightMismatch, match=r"1 missing: model\.layers\.0\.mlp\.up_proj\.weight"):
        minicpm.load_decoder(folder)


def test_files_saved_from_the_trunk_alone_may_leave_the_prefix_out(make):
    pair = make("gptq 4")
    wanted = logits(minicpm.load_decoder(pair.quantized, backend="torch"))

    def strip(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    change(pair.quantized, strip)
    assert torch.equal(logits(minicpm.load_decoder(pair.quantized, backend="torch")), wanted)


def test_a_head_in_codes_that_only_our_default_would_tie_is_noticed(make):
    pair = make("mlx 4", tie_word_embeddings=False)
    raw = json.loads((pair.quantized / "config.json").read_text())
    del raw["tie_word_embeddings"]
    (pair.quantized / "config.json").write_text(json.dumps(raw))
    with pytest.raises(WeightMismatch, match="differs from the embedding"):
        minicpm.load_decoder(pair.quantized)

    def tie(tensors):
        for end in ("weight", "scales", "biases"):
            tensors[f"lm_head.{end}"] = tensors[f"model.embed_tokens.{end}"].clone()

    change(pair.quantized, tie)
    assert minicpm.load_decoder(pair.quantized, prepare=False).config.tied


def test_progress_counts_every_byte_once(pair):
    seen = []
    minicpm.load_decoder(pair.quantized, progress=lambda done, total, label: seen.append((done, total)))
    total = open_checkpoint(pair.quantized).total_bytes
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {total}
    assert seen[-1][0] == total


@pytest.mark.parametrize("weights", ["plain", "int8", "int4"])
def test_memory_is_planned_for_what_codes_take(weights, pair, monkeypatch):
    from minicpm.checkpoint import loading, plan
    from minicpm.checkpoint import rounded as rounding
    from minicpm.checkpoint.available import Limit

    monkeypatch.setattr(rounding, "working_bytes", lambda: 0)
    planned, fit = [], plan.require_fit
    monkeypatch.setattr(loading, "require_fit", lambda plan: (planned.append(plan), fit(plan)))
    decoder = load(open_checkpoint(pair.quantized), weights=weights, backend="reference")
    taken = sum(p.nbytes for p in decoder.parameters()) + sum(p.packed.nbytes for p in held(decoder).values())
    # Zeros of a grid that says nothing of its symmetry may turn out not to be needed.
    zeros = sum(weight.scales.numel() for weight in pair.matrices.values())
    assert taken <= planned[-1].weight_bytes <= taken + zeros
    limit = Limit("a test", planned[-1].needed_bytes)
    monkeypatch.setattr(plan, "tightest", lambda _: limit)
    load(open_checkpoint(pair.quantized), weights=weights, backend="reference")
    if weights == "plain":
        with pytest.raises(CapacityError):
            load(open_checkpoint(pair.plain), backend="reference")


@needs_native
@pytest.mark.parametrize("weights", ["plain", "int4"])
def test_a_second_start_takes_the_kernels_layout_from_a_file(weights, pair, tmp_path, monkeypatch):
    from minicpm.checkpoint import loading

    monkeypatch.setenv("MINICPM_PACKED_CACHE", "1")
    monkeypatch.setenv("MINICPM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(packed_cache, "WORTH_BYTES", 0)
    made, hold = [], loading._hold
    monkeypatch.setattr(loading, "_hold", lambda *a, **k: (made.append(a), hold(*a, **k))[1])
    first, then = (minicpm.load_decoder(pair.quantized, weights=weights, backend="native") for _ in range(2))
    assert len(made) == 1
    assert torch.equal(logits(then), logits(first))
    assert {n: p.scheme for n, p in held(then).items()} == {n: p.scheme for n, p in held(first).items()}


@pytest.mark.parametrize("name", ["gptq 4", "mlx 4", "own"])
def test_an_adapter_beside_codes_does_what_it_does_beside_plain_weights(name, make, tmp_path):
    from minicpm.testing import tiny_adapter

    pair = make(name)
    for file in pair.quantized.parent.joinpath("base").glob("*token*"):
        for folder in (pair.quantized, pair.plain):
            (folder / file.name).write_bytes(file.read_bytes())
    adapters = {"one": tiny_adapter(tmp_path / "adapter", pair.plain)}
    options = {"max_tokens": 8, "temperature": 0, "ignore_eos": True}
    answers = [
        minicpm.load(folder, backend="torch", adapters=adapters).generate(["hello"], adapter="one", **options)
        for folder in (pair.quantized, pair.plain)
    ]
    assert answers[0][0].token_ids == answers[1][0].token_ids


def test_a_draft_in_codes_is_refused_by_its_format(make, tmp_path):
    from minicpm.checkpoint import load_draft
    from minicpm.testing import tiny_checkpoint, tiny_draft

    target = load(open_checkpoint(tiny_checkpoint("minicpm4-8b", tmp_path / "target", num_hidden_layers=6)))
    folder = tiny_draft("eagle3", tmp_path / "draft", target.config)
    change(folder, lambda tensors: tensors.update({"fc.qweight": torch.zeros(16, 64, dtype=torch.int32)}))
    change(folder, lambda tensors: tensors.update({"fc.scales": torch.ones(1, 64)}))
    change(folder, lambda tensors: tensors.update({"fc.qzeros": torch.zeros(1, 8, dtype=torch.int32)}))
    change(folder, lambda tensors: tensors.pop("fc.weight"))
    with pytest.raises(UnknownFormat, match="gptq 4 bits"):
        load_draft(folder, target)
