"""Models whose weights are rounded while they are read compute what a plain model with those weights does."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import minicpm
from minicpm.checkpoint import load, load_as, open_checkpoint, save
from minicpm.checkpoint.rounded import rounded_parts
from minicpm.errors import BadParameter, CapacityError, NotFinite
from minicpm.layers.quant_embedding import QuantEmbedding
from minicpm.layers.quant_linear import QuantLinear
from minicpm.models.decoder import Decoder
from minicpm.models.trunk import Trunk
from minicpm.ops.native import absence
from minicpm.testing import families, tiny_checkpoint

EITHER = pytest.mark.parametrize("weights", ["int8", "int4"])
IDS = torch.arange(40) % 23
needs_native = pytest.mark.skipif(
    absence() is not None, reason="needs the compiled part; `make setup` builds it"
)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy")
    return tiny_checkpoint("minicpm4-0.5b", path, dtype="bfloat16", intermediate_size=192)


@torch.no_grad()
def logits(decoder, ids=IDS):
    return decoder.logits_for(ids)


def rounded(decoder):
    return {name: part for name, part in decoder.named_modules() if isinstance(part, QuantLinear)}


def with_decoded_weights(quantized, folder, *, prepare=True):
    """A plain decoder with the weights that a quantized one stands for."""
    plain = minicpm.load_decoder(folder, dtype="bfloat16", backend="reference", prepare=False)
    plain.load_state_dict(quantized.state_dict())
    if prepare:
        plain.prepare("reference")
    return plain


@EITHER
@pytest.mark.parametrize("prepare", [True, False])
@pytest.mark.parametrize("family", families())
def test_logits_are_those_of_the_weights_it_stands_for(family, weights, prepare, tmp_path):
    folder = tiny_checkpoint(family, tmp_path, dtype="bfloat16")
    quantized = minicpm.load_decoder(folder, weights=weights, backend="reference", prepare=prepare)
    assert rounded(quantized)
    wanted = logits(with_decoded_weights(quantized, folder, prepare=prepare))
    found = logits(quantized)
    # Experts are stacked or not, which changes the order of sums.
    assert torch.allclose(found, wanted, atol=2e-2, rtol=2e-2), (found - wanted).abs().max()
    assert found.argmax(-1).eq(wanted.argmax(-1)).float().mean() > 0.9


@EITHER
def test_logits_of_a_dense_model_keep_every_bit(folder, weights):
    quantized = minicpm.load_decoder(folder, weights=weights, backend="reference")
    assert torch.equal(logits(quantized), logits(with_decoded_weights(quantized, folder)))


@needs_native
@EITHER
@pytest.mark.parametrize("tied", [True, False])
def test_native_hidden_states_differ_by_the_rounding_of_activations(weights, tied, tmp_path):
    changes = {"intermediate_size": 192, "tie_word_embeddings": tied}
    folder = tiny_checkpoint("minicpm4-0.5b", tmp_path, dtype="bfloat16", **changes)
    native = minicpm.load_decoder(folder, weights=weights, backend="native")
    reference = minicpm.load_decoder(folder, weights=weights, backend="reference")
    found, wanted = logits(native), logits(reference)
    assert ((found - wanted).norm() / wanted.norm()).item() < 2e-2
    assert torch.equal(native.embed(IDS), reference.embed(IDS))
    assert torch.equal(native.head, reference.head)


@EITHER
def test_projections_and_the_head_are_rounded_and_all_else_is_plain(weights, tmp_path):
    bits = {"int8": 8, "int4": 4}[weights]
    changes = {"num_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": False}
    folder = tiny_checkpoint("minicpm-2b", tmp_path, **changes)
    decoder = minicpm.load_decoder(folder, weights=weights, prepare=False)
    parts = rounded(decoder)
    assert parts.pop("lm_head").scheme.bits == 8
    assert {part.scheme.bits for part in parts.values()} == {bits}
    assert len(parts) == 3 * (4 + 4 * 3)
    assert {p.dtype for p in decoder.parameters()} == {torch.bfloat16}
    assert isinstance(decoder.model.layers[0].mlp.gate, torch.nn.Linear)
    assert isinstance(decoder.model.embed_tokens, torch.nn.Embedding)


@EITHER
def test_a_tied_embedding_is_held_once_in_8_bits(folder, weights):
    decoder = minicpm.load_decoder(folder, weights=weights, prepare=False)
    embedding = decoder.model.embed_tokens
    assert type(embedding) is QuantEmbedding
    assert embedding.scheme.bits == 8
    assert torch.equal(decoder.head, embedding.weight)
    assert torch.equal(embedding(IDS), embedding.weight[IDS])
    assert not hasattr(decoder, "lm_head")


@EITHER
def test_towers_stay_plain(weights, tmp_path):
    folder = tiny_checkpoint("minicpm-v", tmp_path)
    decoder = minicpm.load_decoder(folder, weights=weights)
    assert {name.split(".")[0] for name in rounded_parts(blank_of(folder), weights)} == {"llm"}
    pixels = torch.zeros(1, 3, 20, 20)
    with torch.no_grad():
        assert decoder.see(pixels).dtype == torch.bfloat16


def blank_of(folder):
    from minicpm.checkpoint.building import blank
    from minicpm.checkpoint.loading import read_config

    return blank(read_config(open_checkpoint(folder)))


@EITHER
def test_a_matrix_that_no_group_divides_stays_plain(weights, tmp_path):
    folder = tiny_checkpoint("minicpm4-0.5b", tmp_path, intermediate_size=90)
    decoder = minicpm.load_decoder(folder, weights=weights)
    parts = rounded_parts(blank_of(folder), weights)
    assert not [name for name in parts if name.endswith("down_proj")]
    assert [name for name in parts if name.endswith("up_proj")]
    assert logits(decoder).isfinite().all()


@EITHER
def test_saved_and_reopened_it_is_the_same_model(folder, weights, tmp_path):
    quantized = minicpm.load_decoder(folder, weights=weights, backend="reference")
    save(quantized, tmp_path / "saved", source=folder)
    assert set(open_checkpoint(tmp_path / "saved").tensors) == set(open_checkpoint(folder).tensors)
    reopened = minicpm.load_decoder(tmp_path / "saved", backend="reference")
    assert torch.equal(logits(reopened), logits(quantized))


@EITHER
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_another_dtype_is_refused(folder, weights, dtype):
    with pytest.raises(BadParameter, match=f"{dtype} was asked for with {weights} weights"):
        minicpm.load_decoder(folder, weights=weights, dtype=dtype)


def test_a_float32_checkpoint_becomes_bfloat16(tmp_path):
    folder = tiny_checkpoint("minicpm4-0.5b", tmp_path, dtype="float32")
    assert minicpm.load_decoder(folder, weights="int8").dtype == torch.bfloat16


@EITHER
def test_an_adapter_is_not_merged(folder, weights, tmp_path):
    with pytest.raises(BadParameter, match=f"merged into {weights} weights"):
        minicpm.load(folder, weights=weights, merged=tmp_path)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    folder = tiny_checkpoint("minicpm4-0.5b", tmp_path, dtype="bfloat16")
    shard = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(shard)
    name = next(name for name in tensors if "proj" in name)
    tensors[name][3, 4] = torch.nan
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(NotFinite, match=name):
        minicpm.load_decoder(folder, weights="int4")


@EITHER
def test_models_that_make_one_thing_of_a_text_keep_their_heads(weights, tmp_path):
    folder = tiny_checkpoint("minicpm-reranker", tmp_path)
    model = load_as(Trunk, open_checkpoint(folder), weights=weights, prepare=False)
    assert rounded(model)
    assert isinstance(model.score, torch.nn.Linear)
    assert isinstance(model.model.embed_tokens, torch.nn.Embedding)


@EITHER
def test_memory_is_planned_for_the_rounded_weights(folder, weights, monkeypatch):
    """What holds no plain model may hold it rounded."""
    from minicpm.checkpoint import loading, plan
    from minicpm.checkpoint import rounded as rounding
    from minicpm.checkpoint.available import Limit

    monkeypatch.setattr(rounding, "working_bytes", lambda: 0)  # a few MB, more than the whole toy
    planned = []
    fit = plan.require_fit
    monkeypatch.setattr(loading, "require_fit", lambda plan: (planned.append(plan), fit(plan)))
    decoder = load(open_checkpoint(folder), weights=weights, backend="reference")
    held = sum(p.nbytes for p in decoder.parameters()) + sum(
        p.packed.nbytes for p in rounded(decoder).values()
    )
    assert planned[0].weight_bytes == held
    limit = Limit("a test", planned[0].needed_bytes)
    monkeypatch.setattr(plan, "tightest", lambda _: limit)
    load(open_checkpoint(folder), weights=weights, backend="reference")
    with pytest.raises(CapacityError):
        load(open_checkpoint(folder), backend="reference")


@EITHER
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_nano_still_adds(weights, backend):
    model = minicpm.load("nano", weights=weights, backend=backend)
    assert isinstance(model.decoder, Decoder)
    assert "42" in model.chat("What is 17 + 25?", temperature=0).text


def test_progress_counts_every_byte_once(folder):
    seen = []
    minicpm.load_decoder(
        folder, weights="int4", progress=lambda done, total, label: seen.append((done, total))
    )
    total = json.loads((folder / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {total}
    assert seen[-1][0] == total
