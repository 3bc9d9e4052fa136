"""A run of a few steps: log, states, export; resumed as if never stopped; scored and described."""

import json

import pytest
import torch

import minicpm
from minicpm.errors import BadInput
from minicpm.testing import ScriptedChat
from minicpm.train.nano import run as runs
from minicpm.train.nano.card import totals, write_card
from minicpm.train.nano.exams import Item
from minicpm.train.nano.model import config
from minicpm.train.nano.recipe import Recipe
from minicpm.train.nano.score import Mark, Written, examine, is_right

SHORT = Recipe(stable=2, long=1, chat=1, warmup=1)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """Steps, shards and the tokenizer's text at a fraction of their size."""
    monkeypatch.setattr("minicpm.train.nano.recipe.STEP_TOKENS", 512)
    monkeypatch.setattr("minicpm.train.nano.data.shard", _small_shard)
    monkeypatch.setattr(runs, "_TOKENIZER_SHARDS", 1)


def _small_shard(seed, index, mix, *, corpus=None):
    from minicpm.train.nano.corpus.mixture import shard

    return shard(seed, index, mix, corpus=corpus, size=40)


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_SAVE_EVERY", 2)
    whole = runs.train_nano(tmp_path / "whole", recipe=SHORT)

    def stop(progress, stage):
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.train_nano(tmp_path / "stopped", recipe=SHORT, listen=stop)
    resumed = runs.train_nano(tmp_path / "stopped", recipe=SHORT)
    one, two = (minicpm.load_decoder(folder, dtype="float32") for folder in (whole, resumed))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    stages = [
        json.loads(line)["stage"] for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    ]
    assert stages == ["stable", "stable", "long", "chat"]


def test_a_folder_of_another_seed_is_refused(tmp_path):
    runs.train_nano(tmp_path / "run", recipe=SHORT)
    with pytest.raises(BadInput, match="seed 0"):
        runs.train_nano(tmp_path / "run", recipe=Recipe(stable=9, warmup=1, seed=1))


def test_an_exam_marks_what_its_check_accepts():
    item = Item([{"role": "user", "content": "?"}], lambda answer, calls: answer == "42")
    assert is_right(item, Written("thought", "42", ()))
    assert not is_right(item, Written("42", "41", ()))


def test_examine_asks_every_exam_and_counts():
    marks = list(examine(ScriptedChat(["I am a tiny demo model."] * 10), count=1))
    assert [mark.total for mark in marks] == [1] * 10
    assert {mark.exam: mark.right for mark in marks}["unknown"] == 1


def test_the_card_holds_the_marks_and_counts_a_repeated_step_once(tmp_path):
    line = {"step": 1, "tokens": 100, "learned": 40, "seconds": 2.0}
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(json.dumps(entry) for entry in (line, line, line | {"step": 2})))
    run = totals(log)
    assert (run.steps, run.tokens, run.learned, run.seconds) == (2, 200, 80, 4.0)
    marks = [Mark("facts", 9, 10)]
    card = write_card(tmp_path, config=config(), recipe=SHORT, run=run, marks=marks, public=False)
    text = card.read_text(encoding="utf-8")
    assert "| facts | 90.0% | 90% |" in text
    assert f"{len(config().layers)} layers, hidden 256" in text
    assert "Tatoeba" not in text
