"""The cache holds one full context where memory allows."""

from dataclasses import replace

from minicpm.config.memory import page_bytes
from minicpm.engine.memory import default_pages
from minicpm.models.decoder import Decoder


def test_a_full_context_gets_its_pages(decoder: Decoder) -> None:
    config = replace(decoder.config, context=100_000)
    assert default_pages(config, "float32", None) == 1563
    assert default_pages(config, "float32", 10**15) == 1563


def test_half_of_the_free_memory_is_the_bound(decoder: Decoder) -> None:
    page = page_bytes(decoder.config, "float32")
    assert default_pages(decoder.config, "float32", 20 * page) == 10
    assert default_pages(decoder.config, "float32", 0) == 1


def test_a_short_context_leaves_room_for_several_sequences(decoder: Decoder) -> None:
    assert default_pages(replace(decoder.config, context=512), "float32", None) == 128
