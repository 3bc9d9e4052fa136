"""Leaving inactive neurons out natively changes rounding at most, and only where it was asked for."""

import copy

import pytest
import torch

from minicpm.cache import Batch, Segment
from minicpm.checkpoint import load_decoder
from minicpm.checkpoint.adapters import attach, detach, merge, open_adapter
from minicpm.errors import BadParameter
from minicpm.models.sparsity import skip_inactive
from minicpm.ops import native
from minicpm.testing import tiny_adapter, tiny_checkpoint

pytestmark = pytest.mark.skipif(
    native.absence() is not None, reason="needs the compiled part: install from source with a C++ compiler"
)

WEIGHTS = ["plain", "int8"]
HIDDEN, NEURONS, LAYERS = 256, 1024, 3

# In units of bfloat16's rounding step: a sum in another order is now and then rounded to the other side, here
# in three layers and in keys and values of up to 25 steps. Measured at most 1.2e-2.
BFLOAT16 = 4 * 2**-8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A toy MiniCPM-S about a third of whose neurons are active."""
    sizes = {"hidden_size": HIDDEN, "intermediate_size": NEURONS, "hidden_act_param": 0.5}
    return tiny_checkpoint("minicpm-s-1b", tmp_path_factory.mktemp("relu"), dtype="bfloat16", **sizes)


@pytest.fixture
def made(folder):
    """made(rows=N) -> a decoder that skips in forwards of up to N rows; made() -> one that does not."""

    def make(*, rows=None, weights="plain", threads=2):
        decoder = load_decoder(folder, backend="native", weights=weights, threads=threads)
        if rows is not None:
            skip_inactive(decoder, rows=rows)
        return decoder

    return make


def ids_of(count, seed=0):
    return torch.randint(3, 60, (count,), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def feed(decoder, cache, seq, ids, *, rows=None, adapter=None):
    """Logits [R, V] of `rows`, or [T, V] of all."""
    segment = Segment(seq, cache.length(seq), len(ids), adapter=adapter)
    assert cache.reserve(seq, len(ids))
    return decoder.logits(decoder(Batch(ids, (segment,), cache, rows=rows))).float()


@torch.inference_mode()
def decode_together(decoder, cache, sequences, ids):
    segments = tuple(Segment(seq, cache.length(seq), 1) for seq in sequences)
    assert all(cache.reserve(seq, 1) for seq in sequences)
    return decoder.logits(decoder(Batch(ids, segments, cache))).float()


def said(decoder, ids, counts=1, **options):
    """Logits [T, V] of ids fed to a new cache in pieces of so many, or one by one."""
    cache = decoder.new_cache(4)
    seq = cache.open()
    return torch.cat([feed(decoder, cache, seq, part, **options) for part in ids.split(counts)])


def active(decoder):
    """Of every layer, the neurons in the last forward that left some out."""
    return [block.native_halves[1].neurons.active for block in decoder.model.layers]


def assert_some_active(decoder, rows=1):
    assert all(0 < count < rows * NEURONS for count in active(decoder)), active(decoder)


def difference(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("threads", [1, 2])
def test_prefill_and_decode_say_what_all_neurons_say(made, weights, threads):
    plain, skipping = (made(rows=rows, weights=weights, threads=threads) for rows in (None, 1))
    ids, counts = ids_of(95), [70] + [1] * 25
    assert difference(said(skipping, ids, counts), said(plain, ids, counts)) <= BFLOAT16
    assert_some_active(skipping)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_what_is_left_out_would_be_missed_if_it_were_not_zero(made, weights):
    """The bound of the test before is one that leaving out a single active layer would break."""
    plain, broken = made(weights=weights), made(weights=weights)
    with torch.no_grad():
        broken.model.layers[1].mlp.register_forward_hook(lambda *args: torch.zeros_like(args[2]))
    assert difference(said(broken, ids_of(20)), said(plain, ids_of(20))) > 2 * BFLOAT16


@pytest.mark.parametrize("weights", WEIGHTS)
def test_threads_change_no_bit(made, weights):
    one, two = (made(rows=1, weights=weights, threads=threads) for threads in (1, 2))
    assert torch.equal(said(one, ids_of(20)), said(two, ids_of(20)))


def test_larger_forwards_have_the_bits_of_a_model_that_does_not_skip(made):
    plain, skipping = made(), made(rows=2)
    assert torch.equal(said(skipping, ids_of(75), [3, 72]), said(plain, ids_of(75), [3, 72]))
    assert active(skipping) == [0] * LAYERS


@pytest.mark.parametrize(("rows", "skips"), [(1, False), (2, True)])
def test_a_batch_of_two_skips_where_two_rows_may(made, rows, skips):
    plain, skipping = made(), made(rows=rows)
    logits = []
    for decoder in (plain, skipping):
        cache = decoder.new_cache(4)
        sequences = [cache.open(), cache.open()]
        logits.append(
            torch.cat([decode_together(decoder, cache, sequences, ids) for ids in ids_of(20).split(2)])
        )
    assert difference(*logits) <= BFLOAT16
    if skips:
        assert_some_active(skipping, rows=2)
    else:
        assert torch.equal(*logits)
        assert active(skipping) == [0] * LAYERS


def test_of_a_prompt_only_the_wanted_row_skips_in_the_last_layer(made):
    plain, skipping = made(), made(rows=1)
    wanted = {"rows": torch.tensor([69])}
    assert (
        difference(said(skipping, ids_of(70), [70], **wanted), said(plain, ids_of(70), [70])[69:]) <= BFLOAT16
    )
    *others, last = active(skipping)
    assert others == [0] * (LAYERS - 1)
    assert 0 < last < NEURONS


def test_rows_have_the_same_bits_in_one_call_of_all_blocks_and_block_by_block(made):
    skipping = made(rows=1)
    together = said(skipping, ids_of(10))
    apart = copy.deepcopy(skipping)
    assert apart._stack is None, "the test wants blocks that are called one by one"
    assert torch.equal(said(apart, ids_of(10)), together)


def test_a_cache_that_was_fed_before_is_decoded_without_inactive_neurons(made):
    decoder, plain = made(), made()
    caches = decoder.new_cache(4), plain.new_cache(4)
    first, second = (cache.open() for cache in caches)
    feed(decoder, caches[0], first, ids_of(5)), feed(plain, caches[1], second, ids_of(5))
    skip_inactive(decoder)
    found, wanted = feed(decoder, caches[0], first, ids_of(1)), feed(plain, caches[1], second, ids_of(1))
    assert difference(found, wanted) <= BFLOAT16
    assert_some_active(decoder)


def test_asking_again_changes_the_rows_and_copies_nothing(made):
    decoder = made(rows=1)
    held = decoder.backend.runtime.arena.used
    skip_inactive(decoder, rows=2)
    assert decoder.backend.runtime.arena.used == held
    said(decoder, ids_of(2), [2])
    assert_some_active(decoder, rows=2)


def test_a_copy_skips_and_can_be_asked_alone(made):
    decoder = made()
    copied = copy.deepcopy(decoder)
    skip_inactive(copied)
    assert torch.equal(said(decoder, ids_of(10)), said(made(), ids_of(10)))
    assert torch.equal(said(copied, ids_of(10)), said(made(rows=1), ids_of(10)))
    assert torch.equal(said(copy.deepcopy(copied), ids_of(10)), said(copied, ids_of(10)))


def test_a_watched_feed_forward_is_called_with_all_its_neurons(made):
    plain, skipping = made(), made(rows=1)
    seen = []
    hook = skipping.model.layers[1].mlp.register_forward_hook(lambda *args: seen.append(args[2]))
    halves = [block._native_mlp for block in skipping.model.layers]
    assert difference(said(skipping, ids_of(10)), said(plain, ids_of(10))) <= BFLOAT16
    assert len(seen) == 10
    assert [half.neurons.active > 0 for half in halves] == [True, False, True]
    hook.remove()
    said(skipping, ids_of(10))
    assert_some_active(skipping)


def test_an_adapter_is_not_left_out_with_the_neurons(made, folder, tmp_path):
    adapter = open_adapter(tiny_adapter(tmp_path, folder, ("up_proj", "down_proj")))
    plain, skipping, refused = made(), made(rows=1), made()
    for decoder in (plain, skipping, refused):
        attach(decoder, "one", adapter)
    found, wanted = (said(decoder, ids_of(10), adapter="one") for decoder in (skipping, plain))
    assert torch.equal(found, wanted), "layers with adapters are called as modules by both"
    assert difference(found, said(plain, ids_of(10))) > BFLOAT16
    with pytest.raises(BadParameter, match="have adapters"):
        skip_inactive(refused)
    detach(skipping, "one")
    said(skipping, ids_of(10))
    assert_some_active(skipping)


def test_merged_weights_are_read_by_all_neurons_until_asked_again(made, folder, tmp_path):
    adapter = open_adapter(tiny_adapter(tmp_path, folder, ("gate_proj", "up_proj", "down_proj")))
    plain, skipping = made(), made(rows=1)
    for decoder in (plain, skipping):
        merge(decoder, adapter)
    assert torch.equal(said(skipping, ids_of(10)), said(plain, ids_of(10)))
    skip_inactive(skipping)
    assert difference(said(skipping, ids_of(10)), said(plain, ids_of(10))) <= BFLOAT16
    assert_some_active(skipping)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_state_is_that_of_a_model_that_does_not_skip(made, weights):
    plain, skipping = made(weights=weights).state_dict(), made(rows=1, weights=weights).state_dict()
    assert plain.keys() == skipping.keys()
    assert all(torch.equal(weight, plain[name]) for name, weight in skipping.items())


def test_weights_that_cannot_be_read_by_neuron_are_refused_with_the_reason(made):
    decoder = made(weights="int4")
    before = said(decoder, ids_of(10))
    with pytest.raises(
        BadParameter, match=r"layer 0: single neurons are read of .* 8 bits\. Load plain"
    ) as told:
        skip_inactive(decoder)
    assert "before adapters" in str(told.value)
    assert torch.equal(said(decoder, ids_of(10)), before)
