"""A sparse geometry is checked by name, and a model's layers are sparse where that is asked for."""

from dataclasses import replace

import pytest

from minicpm.config import GQA, InfLLM, SparseConfig
from minicpm.config.sparse import (
    chosen_blocks,
    dense_positions,
    first_choice,
    local_blocks,
    sparse_problems,
    with_sparse,
)
from minicpm.errors import BadConfig, BadParameter
from minicpm.models.published import by_name
from minicpm.models.registry import parse

MINICPM4 = dict(by_name("MiniCPM4-8B").raw)
SMALL = {"topk": 4, "window_size": 128, "dense_len": 512}


def test_the_published_geometry_is_sound():
    assert list(sparse_problems(SparseConfig())) == []


def test_the_published_budget_is_6144_tokens():
    sparse = SparseConfig()
    assert (chosen_blocks(sparse), local_blocks(sparse), first_choice(sparse)) == (96, 33, 6144)


@pytest.mark.parametrize(("dense_len", "wanted"), [(-1, 6144), (0, 6144), (6145, 6144), (8192, 8191)])
def test_dense_positions_end_with_the_budget_or_with_dense_len(dense_len, wanted):
    assert dense_positions(SparseConfig(dense_len=dense_len)) == wanted


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"block_size": 32}, "block_size is 32, where 64 is needed"),
        ({"kernel_size": 40}, "kernel_size 40 is not a multiple of kernel_stride 16"),
        ({"kernel_stride": 24, "kernel_size": 48}, "block_size 64 is not a multiple of kernel_stride 24"),
        ({"window_size": 100}, "window_size 100 is not a multiple of block_size 64"),
        ({"topk": 1}, "init_blocks 1 and 33 local blocks are always attended to, but only"),
        ({"init_blocks": 64}, "init_blocks 64 and 33 local blocks"),
    ],
)
def test_an_unusable_geometry_is_refused_by_name(values, wanted):
    with pytest.raises(BadConfig) as caught:
        parse(MINICPM4 | {"sparse_config": values})
    assert wanted in str(caught.value)
    assert "sparse_config in config.json" in str(caught.value)


def test_all_problems_of_a_geometry_are_told_at_once():
    values = {"block_size": 48, "kernel_size": 33, "window_size": 100, "topk": 1}
    with pytest.raises(BadConfig) as caught:
        parse(MINICPM4 | {"sparse_config": values})
    for key in ("block_size", "kernel_size", "window_size"):
        assert key in str(caught.value)


def test_no_local_blocks_are_refused():
    assert "own block" in " ".join(sparse_problems(SparseConfig(local_blocks=0)))


def test_a_checkpoint_with_a_geometry_is_sparse_and_one_without_is_dense():
    dense, sparse = parse(MINICPM4), parse(MINICPM4 | {"sparse_config": SMALL})
    assert all(isinstance(layer.mixer, GQA) for layer in dense.layers)
    assert all(
        layer.mixer == InfLLM(d.mixer, sparse.sparse)
        for layer, d in zip(sparse.layers, dense.layers, strict=True)
    )
    assert sparse.notes == ()


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_modes_on_a_checkpoint_with_a_geometry(mode):
    config = parse(MINICPM4 | {"sparse_config": SMALL})
    found = with_sparse(config, mode)
    if mode == "off":
        assert found.layers == parse(MINICPM4).layers
        assert with_sparse(found, "on") == config
    else:
        assert found == config


def test_on_takes_the_published_geometry_where_there_is_none():
    config = parse(MINICPM4)
    assert with_sparse(config, "auto") == config == with_sparse(config, "off")
    assert {layer.mixer.sparse for layer in with_sparse(config, "on").layers} == {SparseConfig()}


def test_an_unknown_mode_is_refused_with_the_known_ones():
    with pytest.raises(BadParameter, match="auto, on, off"):
        with_sparse(parse(MINICPM4), "always")


def test_on_is_refused_where_no_layer_can_be_sparse():
    config = parse(MINICPM4)
    strange = replace(config, layers=())
    with pytest.raises(BadParameter, match="no layer"):
        with_sparse(strange, "on")
