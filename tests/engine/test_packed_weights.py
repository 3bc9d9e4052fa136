"""A model with packed weights answers as the plain one, in a batch and alone."""

import pytest

import minicpm
from minicpm.errors import BadParameter, NotTernary
from minicpm.testing import tiny_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_checkpoint("bitcpm4-0.5b", tmp_path_factory.mktemp("models") / "bits")


def test_answers_are_those_of_the_plain_model(folder):
    prompts, sampling = ["hello", "the 123", "你好"], {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
    plain, packed = minicpm.load(folder), minicpm.load(folder, weights="packed")
    wanted = [completion.token_ids for completion in plain.generate(prompts, **sampling)]
    assert [completion.token_ids for completion in packed.generate(prompts, **sampling)] == wanted
    assert [packed.generate([prompt], **sampling)[0].token_ids for prompt in prompts] == wanted
    assert packed.score("hello the 你好") == plain.score("hello the 你好")


def test_adapters_are_refused(folder, tmp_path):
    with pytest.raises(BadParameter, match="no adapters"):
        minicpm.load(folder, weights="packed", adapters={"one": tmp_path})


def test_a_model_that_is_not_ternary_is_refused(tmp_path):
    with pytest.raises(NotTernary, match="not ternary"):
        minicpm.load(tiny_checkpoint("minicpm5-1b", tmp_path / "plain"), weights="packed")
