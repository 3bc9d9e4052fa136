"""A model with packed weights answers as the plain one, in a batch and alone."""

import pytest

import minicpm
from minicpm.errors import BadParameter, NotTernary
from minicpm.testing import tiny_adapter, tiny_checkpoint

GREEDY = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "bits"
    return tiny_checkpoint("bitcpm4-0.5b", path, tie_word_embeddings=False)  # tied toys repeat one token


def test_answers_are_those_of_the_plain_model(folder):
    prompts = ["hello", "the 123", "你好"]
    plain, packed = minicpm.load(folder), minicpm.load(folder, weights="packed")
    wanted = [completion.token_ids for completion in plain.generate(prompts, **GREEDY)]
    assert [completion.token_ids for completion in packed.generate(prompts, **GREEDY)] == wanted
    assert [packed.generate([prompt], **GREEDY)[0].token_ids for prompt in prompts] == wanted
    assert packed.score("hello the 你好") == plain.score("hello the 你好")


def test_an_adapter_beside_packed_weights_does_what_it_does_beside_plain_ones(folder, tmp_path):
    adapters = {"one": tiny_adapter(tmp_path / "adapter", folder)}
    plain, packed = (
        minicpm.load(folder, weights=weights, adapters=adapters) for weights in ("plain", "packed")
    )
    found = packed.generate(["hello"], adapter="one", **GREEDY)
    assert found[0].token_ids == plain.generate(["hello"], adapter="one", **GREEDY)[0].token_ids
    assert found[0].token_ids != packed.generate(["hello"], **GREEDY)[0].token_ids


def test_no_adapter_is_merged_into_packed_weights(folder, tmp_path):
    with pytest.raises(BadParameter, match="merged into packed weights"):
        minicpm.load(folder, weights="packed", merged=tmp_path)


def test_a_model_that_is_not_ternary_is_refused(tmp_path):
    with pytest.raises(NotTernary, match="not ternary"):
        minicpm.load(tiny_checkpoint("minicpm5-1b", tmp_path / "plain"), weights="packed")
