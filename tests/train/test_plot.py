"""A training log becomes a picture; torn lines and repeated steps do not disturb it."""

import json
import sys

import pytest

from minicpm.errors import BadInput, MissingExtra
from minicpm.train.plot import Point, plot_log, read_log, smoothed


def line(step, loss=2.0, stage="stable", tokens=100):
    return json.dumps({"step": step, "stage": stage, "loss": loss, "tokens": tokens, "factor": 1.0}) + "\n"


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(
        line(1) + line(2) + line(3, loss=9) + line(3, loss=1, stage="chat") + line(4) + '{"step": 5, "l'
    )
    return path


def test_a_step_done_again_counts_once_and_a_torn_line_not_at_all(log):
    points = read_log(log)
    assert [point.step for point in points] == [1, 2, 3, 4]
    assert points[2] == Point(3, "chat", 1.0, 1.0, 300)


def test_pictures_are_drawn_as_png_and_svg(log, tmp_path):
    pytest.importorskip("matplotlib", reason="the plot needs the extra `plot`")
    png, svg = plot_log(log, tmp_path / "picture")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert svg.read_bytes().lstrip().startswith(b"<?xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "picture.png", "picture.svg"]


def test_without_matplotlib_the_extra_is_named(log, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"minicpm\[plot\]"):
        plot_log(log, tmp_path / "picture")


@pytest.mark.parametrize("text", ["", "{}\n", "torn"])
def test_a_log_without_steps_is_refused(text, tmp_path):
    (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(BadInput, match="no training step"):
        read_log(tmp_path / "log.jsonl")
    with pytest.raises(BadInput, match="does not exist"):
        read_log(tmp_path / "absent.jsonl")


def test_smoothing_keeps_constants_ends_and_length():
    assert smoothed([3.0] * 7, 2) == pytest.approx([3.0] * 7)
    assert smoothed([1.0, 2.0, 6.0], 1) == pytest.approx([1.5, 3.0, 4.0])
    assert smoothed([1.0, 2.0], 0) == [1.0, 2.0]
