"""A tree of draft tokens gives each node what its own path would, and an accepted path becomes the state."""

import random

import pytest
import torch

from minicpm.ops.lightning.decay import alibi_slopes
from minicpm.ops.lightning.reference import recurrent
from minicpm.ops.lightning.tree import commit, tree

FLOAT32 = 1e-5  # the same float32 sums in another order; measured at most 1.4e-6
HEADS, WIDTH, VALUE = 6, 8, 10

CHAIN = [-1, 0, 1, 2, 3]
STAR = [-1, -1, -1, -1]
BINARY = [-1, 0, 0, 1, 1, 2, 2, 3]
FOREST = [-1, -1, 0, 1, 1, 2, 4, 4]
SETTINGS = {"slopes": alibi_slopes(HEADS)}


def random_tree(count, seed):
    generator = random.Random(seed)
    return [generator.randint(-1, node - 1) for node in range(count)]


TREES = [[-1], CHAIN, STAR, BINARY, FOREST, random_tree(64, 1), random_tree(33, 2), list(range(-1, 99))]


def inputs(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(count, HEADS, d, generator=generator) for d in (WIDTH, WIDTH, VALUE))
    return q, k, v, torch.randn(HEADS, WIDTH, VALUE, generator=generator)


def path_to(node, parents):
    path = []
    while node >= 0:
        path.insert(0, node)
        node = parents[node]
    return path


def assert_close(found, wanted):
    assert found.shape == wanted.shape
    difference = ((found - wanted).abs().max() / wanted.abs().max().clamp_min(1)).item()
    assert difference <= FLOAT32, f"differs by {difference:.2e}"


@pytest.mark.parametrize("parents", TREES, ids=lambda t: f"{len(t)} nodes")
def test_every_node_gets_what_the_recurrence_along_its_path_gives(parents):
    q, k, v, state = inputs(len(parents))
    found = tree(q, k, v, state, parents, scale=0.4, **SETTINGS)
    for node in range(len(parents)):
        path = path_to(node, parents)
        wanted, _ = recurrent(q[path], k[path], v[path], state, scale=0.4, **SETTINGS)
        assert_close(found[node], wanted[-1])


@pytest.mark.parametrize("parents", TREES, ids=lambda t: f"{len(t)} nodes")
def test_a_committed_path_is_the_state_the_recurrence_reaches(parents):
    q, k, v, state = inputs(len(parents))
    for node in {0, len(parents) // 2, len(parents) - 1}:
        path = path_to(node, parents)
        _, wanted = recurrent(q[path], k[path], v[path], state, scale=1.0, **SETTINGS)
        assert_close(commit(k, v, state, path, **SETTINGS), wanted)


def test_committing_nothing_keeps_the_state():
    _, k, v, state = inputs(4)
    assert torch.equal(commit(k, v, state, [], **SETTINGS), state)


def test_what_is_off_the_path_changes_nothing():
    q, k, v, state = inputs(len(BINARY))
    before = tree(q, k, v, state, BINARY, scale=1.0, **SETTINGS)
    k[2], v[2] = 1e6, -1e6
    after = tree(q, k, v, state, BINARY, scale=1.0, **SETTINGS)
    others = [n for n in range(len(BINARY)) if 2 not in path_to(n, BINARY)]
    assert torch.equal(after[others], before[others])


def test_the_state_is_not_written_to():
    q, k, v, state = inputs(5)
    before = state.clone()
    tree(q, k, v, state, CHAIN, scale=1.0, **SETTINGS)
    commit(k, v, state, [0, 1], **SETTINGS)
    assert torch.equal(state, before)


@pytest.mark.parametrize("parents", [[0], [-1, 2, 0], [-1, -2]])
def test_a_parent_must_be_an_earlier_row(parents):
    q, k, v, state = inputs(len(parents))
    with pytest.raises(AssertionError, match="not an earlier row"):
        tree(q, k, v, state, parents, scale=1.0, **SETTINGS)


def test_half_precision_keeps_its_dtype():
    q, k, v, state = inputs(len(FOREST))
    q, k, v = (x.bfloat16() for x in (q, k, v))
    out = tree(q, k, v, state, FOREST, scale=1.0, **SETTINGS)
    wanted = tree(q.float(), k.float(), v.float(), state, FOREST, scale=1.0, **SETTINGS)
    assert out.dtype == torch.bfloat16
    assert (out.float() - wanted).abs().max() <= 2**-8 * wanted.abs().max()  # one rounding to 8 bits
