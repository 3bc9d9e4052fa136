"""Shapes are those of published models, whole or shortened to layers that represent all."""

import pytest

from minicpm.bench.shapes import published_shape, shape_names, shape_of, with_layers
from minicpm.config import InfLLM, Lightning, parameter_count
from minicpm.errors import BadParameter
from minicpm.models.published import by_name
from minicpm.models.registry import parse


@pytest.mark.parametrize("name", shape_names())
def test_every_name_is_a_shape_that_writes_text(name):
    shape = published_shape(name)
    assert shape.config.causal
    assert shape.config.vision is None
    assert published_shape(name.upper()) == published_shape(name.lower()) == shape


def test_a_short_name_is_the_model_it_stands_for():
    assert published_shape("sala-9b") == published_shape("MiniCPM-SALA")


def test_a_shape_has_the_published_number_of_weights():
    assert parameter_count(published_shape("MiniCPM4-8B").config) == by_name("MiniCPM4-8B").parameters


def test_an_unknown_name_is_refused_with_those_known():
    with pytest.raises(BadParameter, match=r"'MiniCPM9-1T' is not known.*MiniCPM4-0.5B.*SALA-9B"):
        published_shape("MiniCPM9-1T")


def test_a_model_that_writes_no_text_is_refused():
    with pytest.raises(BadParameter, match="writes no text"):
        shape_of("it", parse(by_name("MiniCPM-Embedding").raw))


def test_fewer_layers_of_one_kind_are_the_first():
    whole = published_shape("MiniCPM-1B")
    assert with_layers(whole, 3).config.layers == whole.config.layers[:3]


@pytest.mark.parametrize("count", [4, 8, 12, 16])
def test_fewer_layers_of_several_kinds_are_mixed_like_all(count):
    whole = published_shape("MiniCPM-SALA").config.layers
    some = with_layers(published_shape("MiniCPM-SALA"), count).config.layers
    assert any(whole[start : start + count] == some for start in range(len(whole)))
    kinds = [type(layer.mixer) for layer in some]
    assert kinds.count(InfLLM) == count // 4
    assert kinds.count(Lightning) == count - count // 4


@pytest.mark.parametrize("count", [0, 25])
def test_layers_that_are_not_there_are_refused(count):
    with pytest.raises(BadParameter, match=rf"{count} layers were asked for.* 1 to 24"):
        with_layers(published_shape("MiniCPM4-0.5B"), count)
