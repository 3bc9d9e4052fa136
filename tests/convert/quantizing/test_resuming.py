"""Finished layers survive any end, go on to the same result, and are given up for other settings only."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minicpm.checkpoint import open_checkpoint
from minicpm.convert.quantizing.driver import quantize
from minicpm.convert.quantizing.events import LayerDone, Measuring, Rounding, Started
from minicpm.convert.quantizing.recipe import Recipe
from minicpm.convert.quantizing.work import opened, work_folder
from minicpm.errors import BadInput, BadParameter, CapacityError, DiskFull, NotTernary
from minicpm.ops.quant_tensor import decode

SOURCES = Path(__file__).resolve().parents[3] / "src"
RECIPE = Recipe(method="gptq", bits=4, group=32)
TOKENS = 600


class Stop(Exception):
    """Ends a run from within."""


def stop_at(kind, count):
    """What a watcher does that ends a run at the `count`th event of a kind."""
    seen = []

    def watch(event):
        seen.extend([event] if isinstance(event, kind) else [])
        if len(seen) == count:
            raise Stop

    return watch


def run(source, target, text, watch=lambda event: None, recipe=RECIPE, **more):
    return quantize(source, target, recipe, calibration=text, tokens=TOKENS, watch=watch, **more)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def whole(toy, text, tmp_path):
    """An uninterrupted result."""
    return contents(run(toy(), tmp_path / "whole", text))


@pytest.mark.parametrize(("kind", "count"), [(Rounding, 4), (LayerDone, 1), (Rounding, 17), (LayerDone, 3)])
def test_a_run_that_goes_on_gives_the_same_bytes(kind, count, whole, toy, text, tmp_path):
    source, target, told = toy(), tmp_path / "out", []
    with pytest.raises(Stop):
        run(source, target, text, stop_at(kind, count))
    assert not target.exists()
    assert contents(run(source, target, text, told.append)) == whole
    assert told[0].finished == (count if kind is LayerDone else (count - 1) // 7)
    assert not told[0].anew
    assert sum(isinstance(event, LayerDone) for event in told) == 3 - told[0].finished
    assert not work_folder(target).exists()


def test_kill_leaves_the_old_target_and_the_work(whole, toy, text, tmp_path):
    source, target = toy(), tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from minicpm.checkpoint import open_checkpoint\n"
        "from minicpm.convert.quantizing.driver import quantize\n"
        "from minicpm.convert.quantizing.recipe import Recipe\n"
        "from minicpm.convert.quantizing.events import Rounding\n"
        "def watch(event):\n"
        "    print(event, flush=True)\n"
        "    if isinstance(event, Rounding) and event.index == 2:\n"
        "        sys.stdin.read()\n"
        f"quantize(open_checkpoint({str(source.path)!r}), {str(target)!r},\n"
        f"    Recipe(method='gptq', bits=4, group=32), calibration={str(text)!r}, tokens={TOKENS},\n"
        "    overwrite=True, watch=watch)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as child:
        while "index=2" not in child.stdout.readline():
            assert child.poll() is None
        child.send_signal(signal.SIGKILL)
    assert contents(target) == {"old": b"old"}
    told = []
    run(source, target, text, told.append, overwrite=True)
    assert told[0] == Started(3, 2, work_folder(target), False)
    assert contents(target) == whole


def test_other_settings_start_anew_and_say_so(toy, text, tmp_path):
    source, target, told = toy(), tmp_path / "out", []
    with pytest.raises(Stop):
        run(source, target, text, stop_at(LayerDone, 2))
    run(source, target, text, told.append, recipe=Recipe(method="gptq", bits=3, group=32))
    assert told[0] == Started(3, 0, work_folder(target), True)


def test_other_weights_start_anew(toy, text, tmp_path):
    target, told = tmp_path / "out", []
    with pytest.raises(Stop):
        run(toy(), target, text, stop_at(LayerDone, 2))
    run(toy("minicpm4-0.5b", seed=1), target, text, told.append)
    assert told[0].anew
    assert told[0].finished == 0


def test_what_a_killed_writer_left_is_swept_away(toy, text, tmp_path):
    source, target, told = toy(), tmp_path / "out", []
    with pytest.raises(Stop):
        run(source, target, text, stop_at(LayerDone, 1))
    work = work_folder(target)
    (work / "layer-00001.writing").write_bytes(b"half")
    (work / ".layer-00001.json.abcd").write_bytes(b"{")
    (work / "layer-00002.safetensors").write_bytes(b"of a layer without a note")
    run(source, target, text, told.append)
    assert told[0].finished == 1
    open_checkpoint(target)


def test_a_torn_note_of_settings_starts_anew(toy, text, tmp_path):
    source, target, told = toy(), tmp_path / "out", []
    with pytest.raises(Stop):
        run(source, target, text, stop_at(LayerDone, 1))
    (work_folder(target) / "settings.json").write_bytes(b'{"settings": ')
    run(source, target, text, told.append)
    assert told[0].anew


def test_two_runs_do_not_work_on_one_target(toy, text, tmp_path):
    with opened(tmp_path / "out", "x"), pytest.raises(BadInput, match="Another process"):
        run(toy(), tmp_path / "out", text)


def test_a_budget_is_measured_once(toy, text, tmp_path):
    source, target, told = toy(), tmp_path / "out", []
    recipe = Recipe(method="rtn", budget=4.6, group=32)
    with pytest.raises(Stop):
        run(source, target, text, stop_at(Measuring, 2), recipe=recipe)
    run(source, target, text, told.append, recipe=recipe)
    assert [event.index for event in told if isinstance(event, Measuring)] == [2]
    uninterrupted = run(source, tmp_path / "whole", text, recipe=recipe)
    assert contents(target) == contents(uninterrupted)
    packed = {n: m for n, m in open_checkpoint(target).packed.items() if "layers" in n}
    weights = sum(m.shape[0] * m.shape[1] for m in packed.values())
    assert 4.2 < 8 * sum(m.nbytes for m in packed.values()) / weights <= 4.6


def test_a_folder_that_holds_something_is_left_alone(toy, text, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(BadInput, match="not empty"):
        run(toy(), tmp_path / "out", text)
    assert not work_folder(tmp_path / "out").exists()


def test_little_memory_and_a_full_disk_are_refused_before_anything_is_done(toy, text, tmp_path, monkeypatch):
    from minicpm.checkpoint import disk
    from minicpm.checkpoint.available import Limit
    from minicpm.convert.quantizing import memory

    monkeypatch.setattr(memory, "memory_limits", lambda: [Limit("the test's memory", 100_000)])
    with pytest.raises(CapacityError, match="hidden states of"):
        run(toy(), tmp_path / "out", text)
    monkeypatch.undo()
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 1000)
    with pytest.raises(DiskFull, match="1,000 bytes free"):
        run(toy(), tmp_path / "out", text)
    assert not list(tmp_path.glob(".out*"))


def test_ternary_is_for_models_that_were_trained_so(toy, text, tmp_path):
    recipe = Recipe(method="ternary")
    with pytest.raises(NotTernary, match="are not ternary"):
        quantize(toy(), tmp_path / "out", recipe)
    folder = quantize(toy("bitcpm4-0.5b"), tmp_path / "out", recipe)
    source, packed = open_checkpoint(tmp_path / "bitcpm4-0.5b"), open_checkpoint(folder).packed
    for name, matrix in packed.items():
        found = matrix.read(torch.bfloat16)
        assert found.scheme.bits == (2 if "layers" in name else 8)
        assert "layers" not in name or torch.equal(decode(found), source.read(name))


def test_the_method_and_the_grid_must_fit(toy, text, tmp_path):
    with pytest.raises(BadParameter, match="--group row"):
        quantize(toy("minicpm3-4b"), tmp_path / "out", Recipe(method="rtn", bits=4, group=32))
    with pytest.raises(BadParameter, match="is not known"):
        quantize(toy(), tmp_path / "out", Recipe(method="gtpq"))
