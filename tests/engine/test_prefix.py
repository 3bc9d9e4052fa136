"""The prefix index compares tokens exactly and gives pages back."""

from array import array

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minicpm.cache import Cache, Segment
from minicpm.engine.prefix import PrefixIndex, common_prefix


def held(cache: Cache, index: PrefixIndex, tokens: list[int]) -> int:
    handle = cache.open()
    assert cache.reserve(handle, len(tokens))
    cache.commit([Segment(handle, 0, len(tokens))])
    index.keep(handle, array("i", tokens))
    return handle


def pool(pages: int = 20) -> Cache:
    return Cache([], pages, device=torch.device("cpu"))


tokens = st.lists(st.integers(0, 1), max_size=40)


@settings(deadline=None)
@given(tokens, tokens)
def test_the_common_prefix_is_the_one_a_loop_finds(a: list[int], b: list[int]) -> None:
    pairs = list(zip(a, b, strict=False))
    naive = next((i for i, (x, y) in enumerate(pairs) if x != y), len(pairs))
    assert common_prefix(array("i", a), array("i", b)) == naive


def test_the_longest_match_wins_and_leaves_one_token_to_compute() -> None:
    cache = pool()
    index = PrefixIndex(cache)
    held(cache, index, [*range(20), 7, 7])
    longest = held(cache, index, [*range(30), 8, 8])
    match = index.match(array("i", range(30)), [])
    assert match is not None
    assert (match.handle, match.shared) == (longest, 29)


def test_one_different_token_ends_the_match() -> None:
    cache = pool()
    index = PrefixIndex(cache)
    held(cache, index, list(range(100)))
    wanted = array("i", range(100))
    wanted[50] = 999
    match = index.match(wanted, [])
    assert match is not None
    assert match.shared == 50


def test_a_live_sequence_can_be_shared_too() -> None:
    index = PrefixIndex(pool())
    match = index.match(array("i", range(20)), [(42, array("i", range(15)))])
    assert match == (42, 15)


def test_the_least_recently_used_goes_first_and_the_spared_one_stays() -> None:
    cache = pool()
    index = PrefixIndex(cache)
    first = held(cache, index, list(range(100, 120)))
    held(cache, index, list(range(200, 220)))
    third = held(cache, index, list(range(300, 320)))
    index.match(array("i", range(100, 120)), [])
    assert index.evict()
    assert index.match(array("i", range(200, 220)), []) is None
    assert index.evict(spare=third)
    assert not index.evict(spare=third)
    assert first != third
    assert index.evict()
    assert cache.free_pages == cache.total_pages


def test_a_sequence_contained_in_another_is_not_held_twice() -> None:
    cache = pool()
    index = PrefixIndex(cache)
    held(cache, index, list(range(20)))
    held(cache, index, list(range(40)))
    held(cache, index, list(range(30)))
    assert len(index) == 1
    match = index.match(array("i", range(41)), [])
    assert match is not None
    assert match.shared == 40


def test_switched_off_it_holds_nothing() -> None:
    cache = pool()
    index = PrefixIndex(cache, enabled=False)
    held(cache, index, list(range(40)))
    assert len(index) == 0
    assert cache.free_pages == cache.total_pages


def test_the_number_of_holders_is_bounded() -> None:
    cache = pool()
    index = PrefixIndex(cache, max_holders=2)
    for start in (0, 100, 200, 300):
        held(cache, index, list(range(start, start + 20)))
    assert len(index) == 2
    assert cache.total_pages - cache.free_pages == 2
