"""With keys and values in 8 bits a decoder says what it says with whole ones, however tokens come."""

import copy
from dataclasses import replace

import pytest
import torch

from minicpm.cache import Batch, BlockedStore, LatentStore, Segment, StateStore
from minicpm.cache.rounded import RoundedPlane
from minicpm.checkpoint import load_decoder
from minicpm.config import GQA, InfLLM
from minicpm.config.memory import cache_bytes
from minicpm.config.sparse import chosen_blocks
from minicpm.errors import BadParameter
from minicpm.models.kv import require_kv
from minicpm.ops import native
from minicpm.testing import tiny_checkpoint

pytestmark = pytest.mark.skipif(
    native.absence() is not None, reason="needs the compiled part: install from source with a C++ compiler"
)

SPARSE = {
    "kernel_size": 32, "kernel_stride": 16, "init_blocks": 1, "block_size": 64, "window_size": 64, "topk": 3,
    "dense_len": 0,
}  # fmt: skip
ROWS = {
    "dense": ("minicpm-2b", {}),
    "sparse": ("minicpm4.1-8b", {"sparse_config": SPARSE}),
    "sparse, unrotated keys": ("minicpm4.1-8b", {"sparse_config": SPARSE | {"use_nope": True}}),
    "sala": ("minicpm-sala", {}),
}
CHUNKS = [1, 64, 65, 7, 1, 120, 63]

# Every number of a key or value is off by at most 0.5 / 127 of the largest of its head's: 0.6 % of their size
# where 64 of them are normal. Attention averages that over tokens and adds it to a larger residual.
INT8 = 1.5e-2
# The same, and bfloat16 on both sides.
BFLOAT16 = 3e-2


@pytest.fixture(scope="module", params=ROWS)
def decoder(request, tmp_path_factory):
    """On one thread, which adds in one order."""
    name, changes = ROWS[request.param]
    folder = tiny_checkpoint(name, tmp_path_factory.mktemp(name), dtype="bfloat16", **changes)
    return load_decoder(folder, backend="native", threads=1)


def ids_of(count, seed=0):
    return torch.randint(3, 60, (count,), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def feed(decoder, cache, *parts):
    """Hidden states of all (sequence, ids), computed together."""
    for seq, ids in parts:
        assert cache.reserve(seq, len(ids))
    segments = tuple(Segment(seq, cache.length(seq), len(ids)) for seq, ids in parts)
    return decoder(Batch(torch.cat([ids for _, ids in parts]), segments, cache)).float()


def fed(decoder, ids, counts, kv="int8"):
    """Hidden states, and the cache they come from."""
    cache = decoder.new_cache(16, kv=kv)
    seq = cache.open()
    return torch.cat([feed(decoder, cache, (seq, part)) for part in ids.split(counts)]), cache


def difference(found, wanted):
    return ((found - wanted).norm(dim=1) / wanted.norm(dim=1)).median().item()


def planes(cache):
    return [plane for store in cache.stores if isinstance(store, BlockedStore) for plane in store.planes]


def assert_same_pages(found, wanted):
    for one, other in zip(planes(found), planes(wanted), strict=True):
        assert torch.equal(one.pages, other.pages)
        if isinstance(one, RoundedPlane):
            assert torch.equal(one.scales, other.scales)


def test_blocks_are_chosen_where_that_is_meant(decoder, request):
    sparse = [layer.mixer for layer in decoder.config.layers if isinstance(layer.mixer, InfLLM)]
    assert bool(sparse) == ("sparse" in request.node.name or "sala" in request.node.name)
    assert all(chosen_blocks(mixer.sparse) < 321 // 64 for mixer in sparse) or "sala" in request.node.name


def test_softmax_attention_is_held_in_eight_bits_and_counted_so(decoder):
    cache = decoder.new_cache(3, kv="int8")
    for layer, store in zip(decoder.config.layers, cache.stores, strict=True):
        assert isinstance(store, BlockedStore if isinstance(layer.mixer, GQA | InfLLM) else StateStore)
    assert all(isinstance(p, RoundedPlane) or p.dtype == torch.bfloat16 for p in planes(cache))
    empty = replace(decoder.config, layers=[x for x in decoder.config.layers if x.mixer.page_values])
    assert cache.nbytes == cache_bytes(empty, 3 * 64, "bfloat16", "int8")


@pytest.mark.parametrize("counts", [[1], [64], [321], CHUNKS, [1] * 130])
def test_hidden_states_are_those_of_whole_keys_within_the_rounding(decoder, counts):
    ids = ids_of(sum(counts))
    found, _ = fed(decoder, ids, counts)
    assert difference(found, fed(decoder, ids, counts, "auto")[0]) < INT8


def test_cached_and_uncached_agree_within_the_rounding(decoder):
    ids = ids_of(321)
    with torch.inference_mode():
        uncached = decoder(Batch.of_sequences(ids)).float()
    assert difference(fed(decoder, ids, CHUNKS)[0], uncached) < BFLOAT16


@pytest.mark.parametrize("counts", [CHUNKS, [160, 161], [63, 1, 1, 256]])
def test_chunks_give_the_bits_of_the_whole(decoder, counts):
    ids = ids_of(321)
    whole, wanted = fed(decoder, ids, [321])
    found, cache = fed(decoder, ids, counts)
    assert_same_pages(cache, wanted)
    if all(isinstance(layer.mixer, GQA | InfLLM) for layer in decoder.config.layers):
        assert torch.equal(found, whole)


def test_several_sequences_in_one_batch_have_the_bits_of_each_alone(decoder):
    cache, sequences = decoder.new_cache(16, kv="int8"), [ids_of(n, seed=n) for n in (2, 65, 200, 100)]
    together = feed(decoder, cache, *((cache.open(), ids) for ids in sequences))
    for part, ids in zip(together.split([len(ids) for ids in sequences]), sequences, strict=True):
        assert torch.equal(part, fed(decoder, ids, [len(ids)])[0])


@pytest.mark.parametrize("shared", [64, 100, 200])
def test_a_fork_goes_on_as_a_sequence_of_its_own_and_leaves_its_parent_alone(decoder, shared):
    cache, ids, other = decoder.new_cache(16, kv="int8"), ids_of(250), ids_of(250, seed=1)
    seq = cache.open()
    feed(decoder, cache, (seq, ids[:200]))
    copy = cache.fork(seq, shared)
    start = cache.length(copy)
    forked = feed(decoder, cache, (copy, other[start:]))
    parent = feed(decoder, cache, (seq, ids[200:]))
    alone = decoder.new_cache(16, kv="int8")
    own, fresh = alone.open(), alone.open()
    feed(decoder, alone, (own, ids[:start]))
    feed(decoder, alone, (fresh, ids[:200]))
    assert torch.equal(forked, feed(decoder, alone, (own, other[start:])))
    assert torch.equal(parent, feed(decoder, alone, (fresh, ids[200:])))


@pytest.mark.parametrize("kept", [0, 63, 64, 130])
def test_a_sequence_taken_back_goes_on_as_one_that_never_went_further(decoder, kept):
    cache, ids, other = decoder.new_cache(16, kv="int8"), ids_of(150), ids_of(60, seed=1)
    seq = cache.open()
    feed(decoder, cache, (seq, ids))
    reached = cache.rewind(seq, kept)
    again = feed(decoder, cache, (seq, torch.cat((ids[reached:kept], other))))
    fresh = decoder.new_cache(16, kv="int8")
    own = fresh.open()
    if reached:
        feed(decoder, fresh, (own, ids[:reached]))
    assert torch.equal(again, feed(decoder, fresh, (own, torch.cat((ids[reached:kept], other)))))


def test_a_cache_that_grows_keeps_what_it_holds(decoder):
    ids, cache = ids_of(200), decoder.new_cache(3, kv="int8")
    seq = cache.open()
    feed(decoder, cache, (seq, ids[:130]))
    cache.grow(12)
    found = feed(decoder, cache, (seq, ids[130:]))
    assert torch.equal(found, fed(decoder, ids, [130, 70])[0][130:])


@pytest.mark.parametrize("kv", ["auto", "int8"])
def test_a_copied_cache_and_its_original_go_on_apart(decoder, kv):
    ids, other, cache = ids_of(200), ids_of(70, seed=1), decoder.new_cache(8, kv=kv)
    seq = cache.open()
    feed(decoder, cache, (seq, ids[:130]))
    copied = copy.deepcopy(cache)
    feed(decoder, copied, (seq, other))
    assert torch.equal(feed(decoder, cache, (seq, ids[130:])), fed(decoder, ids, [130, 70], kv)[0][130:])


def test_modules_read_and_write_the_pages_of_the_kernels(decoder):
    """As where an adapter stands around projections, or a hook watches."""
    ids, cache, called = ids_of(321), decoder.new_cache(16, kv="int8"), []
    seq = cache.open()
    start = feed(decoder, cache, (seq, ids[:100]))
    hooks = [b.self_attn.register_forward_hook(lambda *_: called.append(1)) for b in decoder.model.layers]
    middle = feed(decoder, cache, (seq, ids[100:200]))
    for hook in hooks:
        hook.remove()
    end = feed(decoder, cache, (seq, ids[200:]))
    assert len(called) == len(decoder.model.layers)
    assert difference(torch.cat((start, middle, end)), fed(decoder, ids, [321])[0]) < BFLOAT16


def test_latents_stay_as_they_are(tmp_path):
    decoder = load_decoder(tiny_checkpoint("minicpm3-4b", tmp_path, dtype="bfloat16"), backend="native")
    cache = decoder.new_cache(2, kv="int8")
    assert all(isinstance(store, LatentStore) for store in cache.stores)
    assert cache.nbytes == decoder.new_cache(2).nbytes


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"backend": "torch"}, "the torch backend"), ({"dtype": "float32"}, "float32"), ({}, "24 wide")],
)
def test_what_no_kernel_reads_is_refused_with_what_helps(tmp_path, options, reason):
    narrow = {} if options else {"hidden_size": 96, "num_attention_heads": 4, "num_key_value_heads": 4}
    folder = tiny_checkpoint("minicpm-2b", tmp_path, dtype="bfloat16", **narrow)
    decoder = load_decoder(folder, **options)
    with pytest.raises(BadParameter, match=rf"(?s){reason}.*Leave kv at auto"):
        decoder.new_cache(1, kv="int8")


def test_a_layer_whose_attention_is_not_native_is_named(tmp_path):
    decoder = load_decoder(tiny_checkpoint("minicpm-2b", tmp_path, dtype="bfloat16"), backend="native")
    decoder.model.layers[1].self_attn.native_pages = False
    with pytest.raises(BadParameter, match="layer 1"):
        decoder.new_cache(1, kv="int8")


def test_an_unknown_name_is_refused_on_every_backend(decoder):
    with pytest.raises(BadParameter, match="auto, int8"):
        require_kv("int5", decoder.config, decoder.backend, dtype=decoder.dtype, device=decoder.device)
