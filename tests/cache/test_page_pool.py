"""Pages are counted by their holders, and sequences lie contiguously where they can."""

import random

import pytest

from minicpm.cache import PagePool


def test_a_new_pool_is_all_free():
    assert PagePool(5).free == 5
    assert PagePool(0).free == 0


def test_pages_are_taken_from_the_lowest():
    pool = PagePool(4)
    assert [pool.take() for _ in range(4)] == [0, 1, 2, 3]


def test_the_following_page_is_preferred():
    pool = PagePool(6)
    first, other = pool.take(), pool.take()
    assert pool.take(after=other) == 2
    assert pool.take(after=4) == 5
    assert pool.take(after=first) == 3  # 1 is used, so the lowest free one


def test_there_is_nothing_after_the_last_page():
    pool = PagePool(2)
    assert pool.take(after=1) == 0


def test_a_page_is_free_again_when_its_last_holder_drops_it():
    pool = PagePool(1)
    page = pool.take()
    pool.share(page)
    assert pool.is_shared(page)
    pool.drop(page)
    assert not pool.is_shared(page)
    assert pool.free == 0
    pool.drop(page)
    assert pool.free == 1
    assert pool.take() == page


def test_a_pool_grows_by_free_pages_that_come_last():
    pool = PagePool(2)
    pool.take()
    pool.grow(4)
    assert (pool.free, pool.total) == (3, 4)
    assert [pool.take() for _ in range(3)] == [1, 2, 3]


def test_misuse_is_noticed():
    pool = PagePool(1)
    with pytest.raises(AssertionError, match="free and cannot be shared"):
        pool.share(0)
    with pytest.raises(AssertionError, match="free already"):
        pool.drop(0)
    pool.take()
    with pytest.raises(AssertionError, match="needs a free page"):
        pool.take()


def test_random_use_equals_a_naive_pool():
    generator = random.Random(0)
    pool, holders = PagePool(12), dict.fromkeys(range(12), 0)
    for _ in range(5000):
        used = [page for page, count in holders.items() if count]
        free = [page for page, count in holders.items() if not count]
        match generator.choice(["take", "after", "share", "drop", "drop"]):
            case "take" if free:
                page = pool.take()
                assert page == min(free)
                holders[page] = 1
            case "after" if free:
                last = generator.randrange(12)
                page = pool.take(after=last)
                assert page == (last + 1 if last + 1 in free else min(free))
                holders[page] = 1
            case "share" if used:
                page = generator.choice(used)
                pool.share(page)
                holders[page] += 1
            case "drop" if used:
                page = generator.choice(used)
                pool.drop(page)
                holders[page] -= 1
        assert pool.free == sum(not count for count in holders.values())
        assert all(pool.is_shared(page) == (count > 1) for page, count in holders.items())


def test_endless_use_does_not_grow_the_pool():
    pool = PagePool(8)
    for _ in range(1000):
        pages = [pool.take(after=3)]
        pages += [pool.take(after=pages[-1]) for _ in range(3)]
        for page in pages:
            pool.drop(page)
    assert len(pool._lowest) <= 2 * pool.total
