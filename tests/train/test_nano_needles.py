"""nano finds as much in long texts when it attends to chosen blocks as when it attends to all of them."""

import pytest

import minicpm
from minicpm.config import InfLLM
from minicpm.config.sparse import chosen_blocks, dense_positions
from minicpm.train.nano.score import examine

QUESTIONS = 100


def found(model):
    (mark,) = examine(model.chat_model, count=QUESTIONS, exams=["retrieval_2k"])
    return mark.right


@pytest.mark.slow
def test_sparse_attention_finds_what_dense_attention_finds_within_two_points():
    """About 1,900 tokens, 30 blocks, of which its own sparse_config lets a query choose 17."""
    sparse, dense = minicpm.load("nano"), minicpm.load("nano", sparse="off")
    geometry = sparse.config.sparse
    assert chosen_blocks(geometry) == 17
    assert dense_positions(geometry) < 1100
    assert not any(isinstance(layer.mixer, InfLLM) for layer in dense.config.layers)
    right = found(sparse)
    assert abs(right - found(dense)) <= 2
    assert right > 70
