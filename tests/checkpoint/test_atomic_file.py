"""A file is there as before or anew, and a failed write leaves nothing beside it."""

import os

import pytest

from minicpm.checkpoint import atomic


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "card.md"
    atomic.write_file(path, b"old")
    atomic.write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["card.md"]


@pytest.mark.parametrize("failing", ["sync_file", "os.replace"])
def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch, failing):
    path = tmp_path / "card.md"
    atomic.write_file(path, b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    target = "minicpm.checkpoint.atomic." + failing
    monkeypatch.setattr(target, full)
    with pytest.raises(OSError, match="No space"):
        atomic.write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["card.md"]
