"""Ternary checkpoints are recognised by their weights and load packed, with the bits of a plain load."""

import pytest
import torch

import minicpm
from minicpm.checkpoint import open_checkpoint, save
from minicpm.checkpoint.ternary import packing_of_checkpoint
from minicpm.errors import BadParameter, CapacityError, NotTernary
from minicpm.layers.quant_linear import QuantLinear
from minicpm.testing import tiny_checkpoint


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def folder(request, tmp_path_factory):
    return tiny_checkpoint("bitcpm4-1b", tmp_path_factory.mktemp("toy"), dtype=request.param)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def planned(monkeypatch):
    """The memory plans that loading looked at."""
    from minicpm.checkpoint import loading, plan

    plans, fit = [], plan.require_fit
    monkeypatch.setattr(loading, "require_fit", lambda plan: (plans.append(plan), fit(plan)))
    return plans


@torch.no_grad()
def logits(decoder):
    return decoder.logits_for(torch.arange(50))


def packed_parts(decoder):
    return [module.packed for module in decoder.modules() if isinstance(module, QuantLinear)]


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
@pytest.mark.parametrize("prepare", [True, False])
def test_a_packed_load_gives_the_logits_of_a_plain_one(folder, dtype, prepare):
    plain = minicpm.load_decoder(folder, dtype=dtype, backend="torch", prepare=prepare)
    packed = minicpm.load_decoder(folder, dtype=dtype, backend="torch", prepare=prepare, weights="packed")
    assert len(packed_parts(packed)) == 21
    assert packed.dtype == plain.dtype
    assert torch.equal(logits(packed), logits(plain))


def test_a_ternary_load_is_a_packed_one_with_a_rounded_head(folder):
    ternary = minicpm.load_decoder(folder, weights="ternary", backend="torch")
    packed = minicpm.load_decoder(folder, dtype="bfloat16", weights="packed", backend="torch")
    rounded, exact = (dict(model.published_state()) for model in (ternary, packed))
    head = "model.embed_tokens.weight"  # this one is tied
    assert [name for name in exact if not torch.equal(rounded[name], exact[name])] == [head]
    step = exact[head].float().abs().amax().item() / 127
    torch.testing.assert_close(rounded[head].float(), exact[head].float(), rtol=2**-8, atol=step / 2)


def test_ternary_weights_are_bfloat16_beside_their_codes(folder):
    with pytest.raises(BadParameter, match="with ternary weights"):
        minicpm.load_decoder(folder, weights="ternary", dtype="float32")


@pytest.mark.parametrize("group", ["row", 32])
def test_the_group_is_found_and_the_bits_are_counted(group, tmp_path):
    folder = tiny_checkpoint("bitcpm4-0.5b", tmp_path, dtype="bfloat16", group=group)
    packing = packing_of_checkpoint(open_checkpoint(folder))
    assert packing.group == group
    parts = packed_parts(minicpm.load_decoder(folder, weights="packed", backend="torch"))
    assert packing.nbytes == sum(part.nbytes for part in parts)
    assert packing.weights == sum(part.shape[0] * part.shape[1] for part in parts)
    assert packing.nbytes_before == 2 * packing.weights
    if group == 32:
        assert packing.bits_per_weight == 2.5


def test_a_plain_load_stays_plain(folder):
    assert packed_parts(minicpm.load_decoder(folder)) == []


def test_other_checkpoints_are_not_ternary_and_refused_with_the_measure(tmp_path):
    folder = tiny_checkpoint("minicpm4-0.5b", tmp_path)
    assert packing_of_checkpoint(open_checkpoint(folder)) is None
    with pytest.raises(NotTernary, match=r"21 of 21 matrices .* 100\.0% of its groups of 32 weights"):
        minicpm.load_decoder(folder, weights="packed")


def test_an_unknown_form_of_weights_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(BadParameter, match="Use one of: plain, packed, int8, int4, ternary"):
        minicpm.load_decoder(tiny_checkpoint("bitcpm4-1b", tmp_path), weights="int2")


def test_a_saved_packed_model_is_the_checkpoint_it_came_from(folder, tmp_path):
    packed = minicpm.load_decoder(folder, weights="packed")
    save(packed, tmp_path / "saved", source=folder)
    first, then = open_checkpoint(folder), open_checkpoint(tmp_path / "saved")
    assert set(first.tensors) == set(then.tensors)
    assert all(torch.equal(first.read(name), then.read(name)) for name in first.tensors)


@pytest.mark.parametrize("weights", ["packed", "ternary"])
def test_memory_is_planned_for_the_packed_weights(folder, weights, planned):
    decoder = minicpm.load_decoder(folder, weights=weights, backend="torch")
    held = sum(p.nbytes for p in decoder.parameters()) + sum(part.nbytes for part in packed_parts(decoder))
    assert planned[-1].weight_bytes == held


def test_what_holds_no_plain_model_may_hold_it_packed(folder, planned, monkeypatch):
    from minicpm.checkpoint import plan
    from minicpm.checkpoint.available import Limit

    minicpm.load_decoder(folder, weights="packed", backend="torch")
    limit = Limit("a test", planned[-1].needed_bytes)
    monkeypatch.setattr(plan, "tightest", lambda _: limit)
    minicpm.load_decoder(folder, weights="packed", backend="torch")
    with pytest.raises(CapacityError):
        minicpm.load_decoder(folder, backend="torch")
