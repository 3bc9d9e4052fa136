"""What a forward must read and compute is counted as a reader would by hand."""

import pytest

from minicpm.bench.limits import Limits
from minicpm.bench.shapes import published_shape
from minicpm.bench.weights import footprint
from minicpm.bench.work import decode_work, prefill_work
from minicpm.config.sparse import with_sparse

LIMITS = Limits("test", 1, 10e9, 9e9, 100e9, 400e9)


def work_of(name, weights="bf16", contexts=(0,), sparse="auto"):
    config = with_sparse(published_shape(name).config, sparse)
    return decode_work(config, footprint(config, weights), contexts)


def test_decoding_reads_every_weight_once_and_the_context():
    small = published_shape("MiniCPM4-0.5B").config
    held = footprint(small, "bf16")
    work = work_of("MiniCPM4-0.5B", contexts=(4095,))
    assert work.nbytes == held.nbytes + 24 * 2 * 2 * 64 * 2 * 4096
    assert work.on_weights == held.nbytes  # two operations and two bytes per weight
    assert work.on_context == 24 * 4 * 16 * 64 * 4096


def test_keys_and_values_in_eight_bits_are_read_as_codes_and_scales():
    small = published_shape("MiniCPM4-0.5B").config
    held = footprint(small, "bf16")
    work = decode_work(small, held, (4095,), kv="int8")
    assert work.nbytes == held.nbytes + 24 * 2 * 2 * (64 + 4) * 4096


def test_a_batch_reads_the_weights_once_and_every_context():
    one, four = work_of("MiniCPM4-0.5B"), work_of("MiniCPM4-0.5B", contexts=(0, 0, 0, 0))
    assert four.on_weights == 4 * one.on_weights
    assert 0 < four.nbytes - one.nbytes < 0.001 * one.nbytes


def test_an_embedding_beside_a_head_is_not_read():
    held = footprint(published_shape("MiniCPM4-8B").config, "bf16")
    assert held.embedding.nbytes > 0
    assert work_of("MiniCPM4-8B").nbytes < held.nbytes - held.embedding.nbytes + 1e6


@pytest.mark.parametrize(("tokens", "chosen"), [(1, 2), (1000, 8)])
def test_only_chosen_experts_are_read(tokens, chosen):
    held = footprint(published_shape("MiniCPM-MoE-8x2B").config, "int4")
    work = work_of("MiniCPM-MoE-8x2B", "int4", contexts=(0,) * tokens)
    past = tokens * 40 * 2 * 36 * 64 * 2
    assert work.nbytes - past == pytest.approx(
        held.shared.nbytes + held.head.nbytes + held.experts.nbytes * chosen / 8
    )


def test_sparse_attention_reads_chosen_blocks_and_compressed_keys():
    far = 131071
    dense, sparse = (work_of("MiniCPM4-8B", contexts=(far,), sparse=mode) for mode in ("off", "on"))
    row = 2 * 128 * 2  # a key of both heads
    attended, compressed = 96 * 64, (far + 1 - 32) // 16 + 1
    assert dense.nbytes - sparse.nbytes == 32 * row * (2 * (far + 1) - 2 * attended - compressed)


def test_sparse_attention_is_dense_while_it_is_short():
    dense, sparse = (work_of("MiniCPM4-8B", contexts=(4096,), sparse=mode) for mode in ("off", "on"))
    assert dense == sparse


def test_a_state_is_as_large_at_any_length():
    config = published_shape("MiniCPM-SALA").config
    held = footprint(config, "bf16")
    near, far = (decode_work(config, held, [n]).nbytes for n in (100, 200))
    softmax = 8 * 2 * 2 * 128 * 2 * 100
    assert far - near == softmax


def test_prefill_sums_what_queries_attend_to():
    config = published_shape("MiniCPM4-0.5B").config
    work = prefill_work(config, footprint(config, "int4"), 100)
    assert work.on_context == pytest.approx(24 * 4 * 16 * 64 * 100 * 101 / 2, rel=0.01)


def test_a_long_prefill_is_sampled_well():
    config = published_shape("MiniCPM4-0.5B").config
    work = prefill_work(config, footprint(config, "int4"), 50_000)
    assert work.on_context == pytest.approx(24 * 4 * 16 * 64 * 50_000 * 50_001 / 2, rel=0.01)


def test_the_limit_is_that_which_bounds_the_work():
    decode = work_of("MiniCPM4-0.5B")
    seconds, bound = LIMITS.seconds(decode, "bf16")
    assert bound == "memory"
    assert seconds == decode.nbytes / 10e9
    config = published_shape("MiniCPM4-0.5B").config
    prefill = prefill_work(config, footprint(config, "int4"), 512)
    seconds, bound = LIMITS.seconds(prefill, "int4")
    assert bound == "arithmetic"
    assert seconds == pytest.approx(prefill.on_weights / 400e9 + prefill.on_context / 100e9)


def test_the_better_of_two_limits_is_the_best_of_each():
    other = Limits("test", 1, 8e9, 9.5e9, 200e9, 300e9)
    assert LIMITS.better(other) == Limits("test", 1, 10e9, 9.5e9, 200e9, 400e9)
