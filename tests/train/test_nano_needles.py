"""What nano finds in 2,000 tokens when it attends to chosen blocks only, beside when it attends to all."""

import pytest

import minicpm
from minicpm.config import InfLLM
from minicpm.config.sparse import chosen_blocks
from minicpm.train.nano.score import examine

QUESTIONS = 100
# Two points of a hundred, either way.
POINTS = 2


@pytest.fixture(scope="module")
def right():
    """right(mode) -> how many needles of 2,000 tokens the packaged nano finds."""
    found = {}

    def count(mode):
        if mode not in found:
            model = minicpm.load("nano", sparse=mode, pages=1024)
            (mark,) = examine(model.chat_model, count=QUESTIONS, exams=("retrieval_2k",))
            found[mode] = mark.right
        return found[mode]

    return count


def test_the_packaged_geometry_leaves_blocks_out_at_this_length():
    mixer = minicpm.load_decoder("nano").config.layers[0].mixer
    assert isinstance(mixer, InfLLM)
    assert (mixer.sparse.kernel_size, mixer.sparse.kernel_stride, mixer.sparse.block_size) == (32, 16, 64)
    assert chosen_blocks(mixer.sparse) < 1900 // 64


@pytest.mark.slow
def test_sparse_is_within_two_points_of_dense(right):
    assert abs(right("auto") - right("off")) <= POINTS
