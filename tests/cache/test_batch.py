"""A batch packs sequences and knows the position of every token."""

import pytest
import torch

from minicpm.cache import Batch, Segment


def test_positions_count_from_each_segments_start():
    segments = (Segment(1, 0, 3), Segment(2, 70, 1), Segment(3, 5, 2))
    batch = Batch(torch.zeros(6, dtype=torch.int64), segments)
    assert batch.positions.tolist() == [0, 1, 2, 70, 5, 6]


def test_separate_sequences_are_packed_from_position_zero():
    batch = Batch.of_sequences(torch.tensor([4, 5]), torch.tensor([6]))
    assert batch.ids.tolist() == [4, 5, 6]
    assert batch.segments == (Segment(None, 0, 2), Segment(None, 0, 1))
    assert batch.positions.tolist() == [0, 1, 0]


def test_segments_must_account_for_every_token():
    with pytest.raises(AssertionError, match="segments count 2 tokens, ids hold 3"):
        Batch(torch.zeros(3, dtype=torch.int64), (Segment(None, 0, 2),))
