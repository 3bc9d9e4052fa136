"""A saved folder is the old one or the new one, reads back bit for bit, and looks as published ones do."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minicpm.checkpoint import load, open_checkpoint, save
from minicpm.checkpoint.atomic import new_folder, write_file
from minicpm.errors import BadInput, BadParameter, DiskFull
from minicpm.testing import families, tiny_checkpoint

SRC = Path(__file__).resolve().parents[2] / "src"


def bits(folder: Path) -> dict[str, torch.Tensor]:
    opened = open_checkpoint(folder)
    return {name: opened.read(name) for name in opened.tensors}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("family", families())
def test_save_then_open_gives_equal_bits_prepared_or_not(family, prepared, tmp_path):
    source = tiny_checkpoint(family, tmp_path / "source")
    decoder = load(open_checkpoint(source), prepare=prepared)
    assert same(bits(save(decoder, tmp_path / "out", max_shard_bytes=60_000)), bits(source))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_of_the_weights_is_written_so_that_auto_gives_the_same_bits(tiny, tmp_path, dtype):
    decoder = load(open_checkpoint(tiny), dtype=dtype)
    again = load(open_checkpoint(save(decoder, tmp_path / "out")))
    assert again.dtype == decoder.dtype
    assert same(dict(again.published_state()), dict(decoder.published_state()))


def test_the_config_is_the_raw_one_and_companions_are_copied(tiny, tmp_path):
    (tiny / "LICENSE").write_text("free")
    (tiny / "modeling_minicpm.py").write_text("raise SystemExit")
    out = save(load(open_checkpoint(tiny)), tmp_path / "out", source=tiny)
    assert json.loads((out / "config.json").read_text()) == json.loads((tiny / "config.json").read_text())
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "LICENSE"):
        if (tiny / name).exists():
            assert (out / name).read_bytes() == (tiny / name).read_bytes()
    assert not (out / "modeling_minicpm.py").exists()


def test_shards_are_named_and_indexed_as_published_ones_and_the_library_reads_them(tiny, tmp_path):
    out = save(load(open_checkpoint(tiny)), tmp_path / "out", max_shard_bytes=100_000)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    names = sorted(set(index["weight_map"].values()))
    count = len(names)
    assert names == [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    whole = {name: tensor for shard in names for name, tensor in load_file(out / shard).items()}
    assert same(whole, bits(tiny))
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())
    largest = max(tensor.nbytes for tensor in whole.values())
    assert all((out / shard).stat().st_size < max(100_000, largest) + 5000 for shard in names)


def test_one_shard_has_no_index(tiny, tmp_path):
    out = save(load(open_checkpoint(tiny)), tmp_path / "out")
    assert (out / "model.safetensors").exists()
    assert not (out / "model.safetensors.index.json").exists()


def test_a_folder_that_holds_anything_is_refused_and_left_alone(tiny, tmp_path):
    decoder = load(open_checkpoint(tiny))
    target = tmp_path / "out"
    target.mkdir()
    save(decoder, target)
    (target / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="not empty"):
        save(decoder, target)
    assert (target / "notes.txt").read_text() == "mine"
    save(decoder, target, overwrite=True)
    assert not (target / "notes.txt").exists()


def test_a_file_in_the_way_and_a_senseless_shard_size_are_refused(tiny, tmp_path):
    decoder = load(open_checkpoint(tiny))
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        save(decoder, tmp_path / "file", overwrite=True)
    with pytest.raises(BadParameter, match="max_shard_bytes is 0"):
        save(decoder, tmp_path / "out", max_shard_bytes=0)


def test_a_place_that_cannot_be_written_says_so(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        save(load(open_checkpoint(tiny)), tmp_path / "file" / "out")


def test_too_little_room_is_said_before_anything_is_written(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("minicpm.checkpoint.disk.free_bytes", lambda folder: 7)
    with pytest.raises(DiskFull, match="7 bytes free"):
        save(load(open_checkpoint(tiny)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_error_on_the_way_leaves_the_old_folder_and_no_remains(tiny, tmp_path):
    decoder = load(open_checkpoint(tiny))
    target = save(decoder, tmp_path / "out")
    before = bits(target)

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(decoder, target, overwrite=True, max_shard_bytes=1000, progress=interrupt)
    assert same(bits(target), before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    left = tmp_path / ".out.partial-00000000"
    left.mkdir()
    (left / "half").write_text("x")
    other = tmp_path / ".other.partial-00000000"
    other.mkdir()
    with new_folder(tmp_path / "out") as beside:
        (beside / "whole").write_text("y")
        with new_folder(tmp_path / "out", overwrite=True) as second:
            assert beside.exists()
            (second / "second").write_text("z")
        shutil.rmtree(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.partial-00000000", "out"]


def test_without_an_atomic_exchange_the_folder_is_still_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr("minicpm.checkpoint.atomic._renameat2_exchange", lambda *_: False)
    for text in ("old", "new"):
        with new_folder(tmp_path / "out", overwrite=True) as beside:
            (beside / "file").write_text(text)
    assert (tmp_path / "out" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_is_replaced_at_once(tmp_path):
    write_file(tmp_path / "a.json", b"one")
    write_file(tmp_path / "a.json", b"two")
    assert (tmp_path / "a.json").read_bytes() == b"two"
    assert len(list(tmp_path.iterdir())) == 1


KILLED = """
import sys, itertools
from minicpm.checkpoint import open_checkpoint, load, save
folder, target = sys.argv[1:]
decoder = load(open_checkpoint(folder))
print("ready", flush=True)
for i in itertools.count():
    with __import__("torch").no_grad():
        decoder.model.norm.weight.fill_(float(i % 100))
    save(decoder, target, source=folder, max_shard_bytes=20_000, overwrite=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="kills with a signal; run it on Linux or macOS")
def test_a_save_killed_at_any_moment_leaves_a_whole_folder(tiny, tmp_path):
    target = tmp_path / "out"
    save(load(open_checkpoint(tiny)), target, source=tiny)
    names = open_checkpoint(tiny).tensors.keys()
    random.seed(1)
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tiny), str(target)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"},
        ) as child:
            assert child.stdout.readline() == "ready\n"
            time.sleep(random.uniform(0.0, 0.15))
            child.kill()
        found = open_checkpoint(target)
        assert found.tensors.keys() == names
        norm = found.read("model.norm.weight")
        assert torch.isfinite(norm).all()
        load(found)
    save(load(open_checkpoint(tiny)), target, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny"]
