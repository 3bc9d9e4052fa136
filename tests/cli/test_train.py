"""`minicpm train nano` shows progress, stops cleanly, continues, and plots at the end."""

import json
import signal
import sys
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Step:
    """What the training reports of one step."""

    step: int
    loss: float = 2.0
    tokens: int = 4096
    learned: int = 4000
    gradient_norm: float = 1.0
    factor: float = 1.0
    seconds: float = 0.5


@pytest.fixture
def trained(monkeypatch):
    """Replaces the training by one that only reports and logs; returns what it was asked for."""
    asked = {}

    def train_nano(work, *, recipe, corpus=None, listen):
        asked.update(work=work, recipe=recipe, corpus=corpus)
        work.mkdir(parents=True, exist_ok=True)
        for number in range(1, recipe.schedule.steps + 1):
            line = {"step": number, "stage": "stable", "loss": 2.0, "tokens": 4096, "factor": 1.0}
            with (work / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            asked.get("during", lambda step: None)(number)
            listen(Step(number), "stable")
            if number == 3:
                (work / "step-0000003").mkdir(exist_ok=True)
        return work / "export"

    monkeypatch.setattr("minicpm.train.nano.run.train_nano", train_nano)
    return asked


NONE = ("--long", "0", "--questions", "0")
SHORT = ("--stable", "5", "--chat", "1", "--warmup", "1", *NONE)


def test_the_folder_of_the_model_is_printed_and_a_plot_drawn(program, trained, tmp_path):
    pytest.importorskip("matplotlib", reason="the plot needs the extra `plot`")
    done = program("train", "nano", "--out", str(tmp_path / "run"), *SHORT, "--seed", "4")
    assert done.code == 0, done.err
    assert done.out == f"{tmp_path / 'run' / 'export'}\n"
    assert (trained["recipe"].stable, trained["recipe"].seed) == (5, 4)
    assert "step 6 of 6, stable, loss 2.000, 8,192 tokens/s" in done.err
    for kind in ("png", "svg"):
        assert (tmp_path / "run" / f"training.{kind}").stat().st_size > 1000


def test_without_options_the_recipe_decides(program, trained, tmp_path, monkeypatch):
    from minicpm.train.nano.recipe import Recipe

    def examine_nano(folder, **options):
        trained["examined"] = (folder, options["questions"])

    monkeypatch.setattr("minicpm.cli.training._plot", lambda out: None)
    monkeypatch.setattr("minicpm.cli.examining.examine_nano", examine_nano)
    program("train", "nano", "--out", str(tmp_path / "run"))
    assert trained["recipe"] == Recipe()
    assert trained["examined"] == (tmp_path / "run" / "export", 200)


def test_a_missing_extra_costs_only_the_plot(program, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = program("train", "nano", "--out", str(tmp_path / "run"), *SHORT)
    assert done.code == 0
    assert done.out == f"{tmp_path / 'run' / 'export'}\n"
    assert "minicpm[plot]" in done.err
    assert "complete without it" in done.err


def test_ctrl_c_stops_after_the_step_and_names_the_kept_state(program, trained, tmp_path):
    trained["during"] = lambda step: signal.raise_signal(signal.SIGINT) if step == 5 else None
    done = program("train", "nano", "--out", str(tmp_path / "run"), *SHORT)
    assert done.code == 130
    assert "Stopped after step 5." in done.err
    assert f"{tmp_path / 'run' / 'step-0000003'} is kept" in done.err
    trained["during"] = lambda step: None
    assert program("train", "nano", "--out", str(tmp_path / "run"), *SHORT).code == 0


def test_ctrl_c_before_a_state_was_saved_says_so(program, trained, tmp_path):
    trained["during"] = lambda step: signal.raise_signal(signal.SIGINT) if step == 1 else None
    done = program("train", "nano", "--out", str(tmp_path / "run"), *SHORT)
    assert done.code == 130
    assert "before the first step" in done.err
    trained["during"] = lambda step: signal.raise_signal(signal.SIGINT) if step == 2 else None
    assert "no state was saved yet" in program("train", "nano", "--out", str(tmp_path / "run"), *SHORT).err


def test_what_cannot_be_trained_is_refused_before_anything_is_written(program, trained, tmp_path):
    out = str(tmp_path / "run")
    program("train", "nano").refused("--out")
    program("train", "nano", "--out", out, "--stable", "-2", "--chat", "-1").refused(
        "--stable -2", "--chat -1"
    )
    program("train", "nano", "--out", out, "--stable", "x").refused("'x' is not a whole number")
    program("train", "nano", "--out", out, "--corpus", str(tmp_path / "absent")).refused("--corpus")
    program("train", "nano", "--out", out, "--stable", "0", "--chat", "0", *NONE).refused("nothing to train")
    program("train", "nano", "--out", out, "--questions", "-1").refused("--questions")
    (tmp_path / "file").touch()
    program("train", "nano", "--out", str(tmp_path / "file")).refused("is a file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    program("train", "nano", "--out", str(tmp_path / "full")).refused("other files")
    assert not trained
