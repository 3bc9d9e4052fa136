"""Legacy .bin files become safetensors in a child process; a pickle that would run code never does."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from minicpm.checkpoint import bins, bins_child, convert_bin, load, open_checkpoint
from minicpm.errors import BadInput, DiskFull, LfsPointer, MalformedFile, NotACheckpoint, UnsafeFormat

SRC = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture
def tensors(tiny):
    opened = open_checkpoint(tiny)
    return {name: opened.read(name) for name in opened.tensors}


@pytest.fixture
def legacy(tiny, tmp_path):
    """A folder as the first models were published: config, tokenizer, and no weights yet."""
    folder = tmp_path / "legacy"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (tiny / name).exists():
            shutil.copy(tiny / name, folder)
    (folder / "modeling_minicpm.py").write_text("raise SystemExit")
    return folder


def same(folder: Path, tensors) -> bool:
    opened = open_checkpoint(folder)
    return opened.tensors.keys() == tensors.keys() and all(
        torch.equal(opened.read(name), tensors[name]) for name in tensors
    )


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_a_single_bin_becomes_a_folder_that_loads(legacy, tensors, tmp_path, zipped):
    torch.save(tensors, legacy / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    seen = []
    target = convert_bin(legacy, tmp_path / "out", progress=lambda *step: seen.append(step))
    assert same(target, tensors)
    load(open_checkpoint(target))
    assert seen[0][2] == "pytorch_model.bin"
    assert (target / "tokenizer.json").exists()
    assert not (target / "modeling_minicpm.py").exists()
    assert not list(target.glob("*.bin"))


def test_sharded_bins_become_shards_with_an_index(legacy, tensors, tmp_path):
    names = sorted(tensors)
    halves = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, group in halves.items():
        torch.save({name: tensors[name] for name in group}, legacy / file)
    placed = {name: file for file, group in halves.items() for name in group}
    (legacy / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    target = convert_bin(legacy, tmp_path / "out")
    assert same(target, tensors)
    assert [path.name for path in open_checkpoint(target).files] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


def test_tensors_that_share_memory_are_written_each_and_parameters_are_fine(legacy, tensors, tmp_path):
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["model.norm.weight"] = torch.nn.Parameter(tensors["model.norm.weight"])
    torch.save(tensors, legacy / "pytorch_model.bin")
    assert same(convert_bin(legacy, tmp_path / "out"), tensors)


class Canary:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Evaluated(Canary):
    def __reduce__(self):
        return eval, (f"__import__('os').system({self.command!r})",)


class Written(Canary):
    def __reduce__(self):
        return open, (self.command.removeprefix("touch "), "w")


ATTACKS = [(Canary, "zip"), (Evaluated, "zip"), (Written, "zip"), (Canary, "old"), (Canary, "bare pickle")]


@pytest.mark.parametrize(("kind", "way"), ATTACKS)
def test_a_malicious_pickle_is_refused_and_nothing_of_it_runs(legacy, tensors, tmp_path, kind, way):
    canary = tmp_path / "canary"
    evil = {**tensors, "x": kind(f"touch {canary}")}
    if way == "bare pickle":
        (legacy / "pytorch_model.bin").write_bytes(pickle.dumps(evil["x"]))
    else:
        torch.save(evil, legacy / "pytorch_model.bin", _use_new_zipfile_serialization=way == "zip")
    with pytest.raises(UnsafeFormat, match="nothing of it was run"):
        convert_bin(legacy, tmp_path / "out")
    assert not canary.exists()
    assert not (tmp_path / "out").exists()


def last_word(source: Path, capsys) -> dict:
    """What the child says of one file; run here, for a process each would take seconds."""
    assert not bins_child.convert(str(source), str(source.with_name("out.safetensors")))
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(2)],
        {"a": 1},
        {"a": {"b": torch.zeros(2)}},
        {3: torch.zeros(2)},
        {"a": torch.zeros(2, 2).to_sparse()},
        {"a": torch.zeros(2, dtype=torch.complex64)},
    ],
    ids=["list", "number", "nested", "number as name", "sparse", "complex"],
)
def test_anything_but_named_dense_tensors_is_refused(tmp_path, content, capsys):
    torch.save(content, tmp_path / "pytorch_model.bin")
    assert "not dense tensors" in last_word(tmp_path / "pytorch_model.bin", capsys)["unsafe"]


def test_a_file_that_is_no_dict_of_tensors_is_a_typed_error(legacy, tmp_path):
    torch.save({"weight": torch.zeros(2), "epoch": 3}, legacy / "pytorch_model.bin")
    with pytest.raises(UnsafeFormat, match="not dense tensors: 'epoch'"):
        convert_bin(legacy, tmp_path / "out")


def hostile_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../evil", "x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"nonsense" * 100, hostile_zip(), b"\x80\x02]q\x00."],
    ids=["empty", "text", "zip", "list"],
)
def test_a_damaged_file_is_told_apart(tmp_path, content, capsys):
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    assert last_word(tmp_path / "pytorch_model.bin", capsys).keys() & {"unsafe", "broken"}


def test_a_cut_file_is_a_typed_error(legacy, tensors, tmp_path):
    torch.save(tensors, legacy / "pytorch_model.bin")
    content = (legacy / "pytorch_model.bin").read_bytes()
    (legacy / "pytorch_model.bin").write_bytes(content[: len(content) // 2])
    with pytest.raises((UnsafeFormat, MalformedFile), match=r"pytorch_model\.bin"):
        convert_bin(legacy, tmp_path / "out")


def test_what_is_missing_or_in_the_way_is_said_first(legacy, tmp_path):
    with pytest.raises(NotACheckpoint, match="nothing to convert"):
        convert_bin(legacy, tmp_path / "out")
    (legacy / "pytorch_model.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(LfsPointer):
        convert_bin(legacy, tmp_path / "out")
    with pytest.raises(BadInput, match="not empty"):
        convert_bin(legacy, legacy)
    (legacy / "config.json").unlink()
    with pytest.raises(NotACheckpoint, match=r"no config\.json"):
        convert_bin(legacy, tmp_path / "out")


def test_too_little_room_is_said_first(legacy, tensors, tmp_path, monkeypatch):
    torch.save(tensors, legacy / "pytorch_model.bin")
    monkeypatch.setattr("minicpm.checkpoint.disk.free_bytes", lambda folder: 7)
    with pytest.raises(DiskFull, match="7 bytes free"):
        convert_bin(legacy, tmp_path / "out")


def test_a_child_that_dies_is_a_typed_error(legacy, tensors, tmp_path, monkeypatch):
    torch.save(tensors, legacy / "pytorch_model.bin")
    monkeypatch.setattr(bins, "_CHILD", "minicpm.no_such_module")
    with pytest.raises(MalformedFile, match="no_such_module"):
        convert_bin(legacy, tmp_path / "out")


CONVERT = """
import sys
from minicpm.checkpoint import convert_bin
convert_bin(sys.argv[1], sys.argv[2], progress=lambda *step: print("working", flush=True))
"""


@pytest.mark.skipif(os.name == "nt", reason="kills with a signal; run it on Linux or macOS")
@pytest.mark.parametrize("moment", [0.0, 0.02])
def test_a_killed_conversion_leaves_nothing_and_the_next_one_succeeds(legacy, tensors, tmp_path, moment):
    torch.save(tensors, legacy / "pytorch_model.bin")
    target = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", CONVERT, str(legacy), str(target)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(SRC)},
    ) as parent:
        assert parent.stdout.readline()
        time.sleep(moment)
        parent.kill()
    if target.exists():
        assert same(target, tensors)
    assert same(convert_bin(legacy, target, overwrite=True), tensors)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


GUARDED = """
import os, socket, subprocess, sys
from minicpm.checkpoint.bins_child import guard, leave_network
inside, outside = sys.argv[1:]
leave_network()
guard(inside)
open(os.path.join(inside, "fine"), "w").close()
open(sys.executable, "rb").close()
attempts = {
    "socket": lambda: socket.create_connection(("127.0.0.1", 9)),
    "system": lambda: os.system("true"),
    "process": lambda: subprocess.Popen(["true"]),
    "write": lambda: open(os.path.join(outside, "x"), "w"),
    "append": lambda: open(os.path.join(outside, "x"), "a"),
    "low write": lambda: os.open(os.path.join(outside, "x"), os.O_CREAT | os.O_WRONLY),
    "link out": lambda: os.symlink(outside, os.path.join(inside, "l")),
    "remove": lambda: os.remove(sys.argv[0] if os.path.exists(sys.argv[0]) else inside),
    "fork": os.fork,
}
for name, attempt in attempts.items():
    try:
        attempt()
    except PermissionError as error:
        assert "not allowed" in str(error), (name, error)
    else:
        raise SystemExit(name + " was allowed")
"""


def test_the_child_can_neither_connect_nor_start_processes_nor_write_elsewhere(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, str(inside), str(outside)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(SRC)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(outside.iterdir()) == []
