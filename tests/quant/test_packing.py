"""A packed model computes the same bits in less memory, and one that is not ternary stays as it was."""

import pytest
import torch

from minicpm.cache import Batch, Segment
from minicpm.errors import BadParameter, NotTernary
from minicpm.layers.lora import make_adaptable
from minicpm.layers.quant_linear import QuantLinear
from minicpm.models.decoder import Decoder
from minicpm.models.registry import parse
from minicpm.quant.packing import pack_ternary, projections
from minicpm.quant.ternary import ternarise
from minicpm.testing import tiny_config

EITHER_DTYPE = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
EITHER_FORM = pytest.mark.parametrize("prepared", [False, True], ids=["separate", "fused"])


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def decoder_of(family="bitcpm4-1b", *, group=32, dtype=torch.float32, prepared=False, **changes):
    torch.manual_seed(0)
    decoder = Decoder(parse(tiny_config(family) | changes)).to(dtype)
    with torch.no_grad():
        for part in projections(decoder).values():
            part.weight.copy_(ternarise(part.weight, group))
    if prepared:
        decoder.prepare("torch")
    return decoder


@torch.no_grad()
def greedy(decoder, count=6):
    cache = decoder.new_cache(1)
    seq, ids, found = cache.open(), [1, 5, 9], []
    for _ in range(count):
        assert cache.reserve(seq, len(ids))
        batch = Batch(torch.tensor(ids), (Segment(seq, cache.length(seq), len(ids)),), cache)
        logits = decoder.logits(decoder(batch))[-1]
        found.append(logits)
        ids = [int(logits.argmax())]
    return torch.stack(found)


@EITHER_DTYPE
@EITHER_FORM
@pytest.mark.parametrize("group", ["row", 32])
def test_logits_keep_every_bit(dtype, prepared, group):
    decoder = decoder_of(group=group, dtype=dtype, prepared=prepared)
    ids = torch.arange(40)
    with torch.no_grad():
        wanted, continued = decoder.logits_for(ids), greedy(decoder)
    done = pack_ternary(decoder)
    assert done.group == group
    with torch.no_grad():
        assert torch.equal(decoder.logits_for(ids), wanted)
    assert torch.equal(greedy(decoder), continued)


def test_packing_before_and_after_preparing_is_the_same():
    first, then = decoder_of(prepared=True), decoder_of()
    pack_ternary(first)
    pack_ternary(then)
    then.prepare("torch")
    with torch.no_grad():
        assert torch.equal(first.logits_for([1, 2, 3]), then.logits_for([1, 2, 3]))


@EITHER_FORM
def test_projections_are_packed_and_all_else_is_kept(prepared):
    decoder = decoder_of("bitcpm4-0.5b", prepared=prepared, tie_word_embeddings=False)
    done = pack_ternary(decoder)
    packed = {name for name, module in decoder.named_modules() if isinstance(module, QuantLinear)}
    assert len(packed) == 3 * 7
    assert isinstance(decoder.lm_head, torch.nn.Linear)
    assert projections(decoder) == {}
    assert done.weights == 3 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96)


def test_memory_is_that_of_the_codes_and_scales():
    decoder = decoder_of(group="row", dtype=torch.bfloat16, prepared=True)
    before = sum(p.nbytes for p in decoder.parameters())
    done = pack_ternary(decoder)
    parts = [module.packed for module in decoder.modules() if isinstance(module, QuantLinear)]
    storages = [held.untyped_storage() for part in parts for held in (part.codes, part.scales)]
    assert sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()) == done.nbytes
    assert done.nbytes < done.nbytes_before / 6
    kept = sum(p.nbytes for p in decoder.parameters())
    assert before - kept == done.nbytes_before
    assert done.bits_per_weight == pytest.approx(2 + 16 / 70, abs=0.05)


@EITHER_FORM
def test_the_published_state_of_a_packed_model_is_that_of_the_plain_one(prepared):
    decoder = decoder_of(prepared=prepared)
    wanted = {name: weight.clone() for name, weight in decoder.published_state()}
    pack_ternary(decoder)
    found = dict(decoder.published_state())
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], weight) for name, weight in wanted.items())


@EITHER_FORM
def test_a_model_that_is_not_ternary_is_refused_and_left_as_it_was(prepared):
    decoder = decoder_of(prepared=prepared)
    part = decoder.model.layers[1].mlp.down_proj
    with torch.no_grad():
        part.weight[3, :32] = torch.linspace(0.1, 1, 32)
        wanted = decoder.logits_for([1, 2, 3])
    worst = r"1 of 21 .*model\.layers\.1\.mlp\.down_proj\.weight: 0\.5% of its groups"
    with pytest.raises(NotTernary, match=worst):
        pack_ternary(decoder)
    assert len(projections(decoder)) == 21
    with torch.no_grad():
        assert torch.equal(decoder.logits_for([1, 2, 3]), wanted)


def test_a_model_with_adapters_is_refused():
    decoder = decoder_of()
    make_adaptable(decoder, "model.layers.0.self_attn.q_proj", decoder.adapters)
    with pytest.raises(BadParameter, match=r"model\.layers\.0\.self_attn\.q_proj"):
        pack_ternary(decoder)


def test_experts_are_packed_and_their_router_is_not():
    decoder = decoder_of("minicpm-2b", prepared=True, num_experts=4, num_experts_per_tok=2)
    with torch.no_grad():
        wanted = decoder.logits_for(torch.arange(20))
    pack_ternary(decoder)
    experts = decoder.model.layers[0].mlp
    assert isinstance(experts.gate, torch.nn.Linear)
    assert isinstance(experts.experts[3].w2, QuantLinear)
    with torch.no_grad():
        # Packed experts are not stacked, and their two products come in another order of sums.
        assert torch.allclose(decoder.logits_for(torch.arange(20)), wanted, atol=1e-5)
