"""What keys and values take in 8 bits, and which models have any."""

from dataclasses import replace

import pytest

from minicpm.config.kv import check_kv, kv_notes, vector_bytes, why_not_int8
from minicpm.config.memory import cache_bytes, page_bytes
from minicpm.errors import BadParameter
from minicpm.models.published import published
from minicpm.models.registry import parse
from minicpm.testing.tiny import tiny_config

CONFIGS = {row.name: parse(row.raw) for row in published()}


def toy(name, **changes):
    return parse(tiny_config(name) | changes)


def test_a_vector_takes_a_byte_for_each_number_and_a_scale():
    assert vector_bytes(64, "bfloat16") == 128
    assert vector_bytes(64, "bfloat16", "int8") == 68


def test_a_dense_model_takes_codes_and_scales():
    config = CONFIGS["MiniCPM4-0.5B"]
    assert cache_bytes(config, 4096, "bfloat16", "int8") == 24 * 2 * 2 * (64 + 4) * 4096


def test_compressed_keys_stay_as_they_are_and_unrotated_ones_do_not():
    sparse = {"kernel_size": 32, "kernel_stride": 16, "init_blocks": 1, "block_size": 64, "window_size": 2048}
    for use_nope, vectors in ((False, 2), (True, 3)):
        config = toy("minicpm4.1-8b", sparse_config=sparse | {"topk": 64, "use_nope": use_nope})
        mixer = config.layers[0].mixer
        rounded = 64 * vectors * mixer.kv_heads * (mixer.head_dim + 4)
        compressed = 64 // 16 * mixer.kv_heads * mixer.head_dim * 2
        assert page_bytes(config, "bfloat16", "int8") == len(config.layers) * (rounded + compressed)


def test_latents_take_what_they_took():
    config = CONFIGS["MiniCPM3-4B"]
    assert page_bytes(config, "bfloat16", "int8") == page_bytes(config, "bfloat16")


def test_every_published_model_without_narrow_heads_can_be_held_in_eight_bits():
    assert {name for name, config in CONFIGS.items() if why_not_int8(config) is not None} == set()


def test_a_head_that_no_kernel_holds_is_named():
    config = toy("minicpm-2b")
    layer = config.layers[0]
    narrow = replace(layer, mixer=replace(layer.mixer, head_dim=24))
    assert "24 wide" in why_not_int8(replace(config, layers=(narrow, *config.layers[1:])))


def test_what_stays_as_it_is_is_said():
    assert kv_notes(CONFIGS["MiniCPM4-8B"], "int8") == []
    assert kv_notes(CONFIGS["MiniCPM3-4B"], "auto") == []
    (note,) = kv_notes(CONFIGS["MiniCPM3-4B"], "int8")
    assert "62 of 62" in note


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(BadParameter, match="auto, int8"):
        check_kv("int5")
