"""Opening a folder reads small files and headers only, and names everything that is wrong with it."""

import builtins
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from minicpm.checkpoint import open_checkpoint
from minicpm.errors import (
    BadConfig,
    CheckpointError,
    LfsPointer,
    MalformedFile,
    MiniCPMError,
    NotACheckpoint,
    TruncatedFile,
    UnsafeFormat,
)

INDEX = "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456789\n"


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def edit_index(folder: Path, change) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def test_a_sharded_folder_opens_without_reading_a_tensor(tiny, monkeypatch):
    sizes = {path.name: path.stat().st_size for path in shards(tiny)}
    opened = open_checkpoint(tiny)
    assert opened.path == tiny
    assert opened.raw_config == json.loads((tiny / "config.json").read_text())
    assert opened.generation["temperature"] == 0.7
    assert [path.name for path in opened.files] == sorted(sizes)
    assert opened.total_bytes == sum(info.nbytes for info in opened.tensors.values()) < sum(sizes.values())


def test_tensors_read_as_the_library_reads_them(tiny):
    opened = open_checkpoint(tiny)
    expected = {name: tensor for path in shards(tiny) for name, tensor in load_file(path).items()}
    assert opened.tensors.keys() == expected.keys()
    assert all(torch.equal(opened.read(name), tensor) for name, tensor in expected.items())


def test_a_single_file_folder_opens_the_same(tiny, tmp_path):
    opened = open_checkpoint(tiny)
    whole = {name: opened.read(name) for name in opened.tensors}
    for path in [*shards(tiny), tiny / INDEX]:
        path.unlink()
    save_file(whole, tiny / "model.safetensors")
    again = open_checkpoint(tiny)
    assert again.tensors.keys() == whole.keys()
    assert len(again.files) == 1


def test_a_folder_with_spaces_and_chinese_characters_opens(tiny, tmp_path):
    moved = shutil.copytree(tiny, tmp_path / "my model 模型")
    assert open_checkpoint(moved).total_bytes > 0


def test_a_missing_folder_a_file_and_an_empty_folder_are_told_apart(tmp_path):
    with pytest.raises(NotACheckpoint, match="does not exist"):
        open_checkpoint(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotACheckpoint, match="is a file"):
        open_checkpoint(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotACheckpoint, match="The folder is empty"):
        open_checkpoint(tmp_path / "empty")


def test_a_folder_without_config_lists_what_it_has(tiny):
    (tiny / "config.json").unlink()
    with pytest.raises(NotACheckpoint, match=r"no config\.json.*Found: .*tokenizer\.json"):
        open_checkpoint(tiny)


def test_a_folder_without_weights_lists_what_it_has(tiny):
    for path in [*shards(tiny), tiny / INDEX]:
        path.unlink()
    with pytest.raises(NotACheckpoint, match=r"no model\.safetensors .*Found: config\.json"):
        open_checkpoint(tiny)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt", "model.ckpt"])
def test_only_pickle_files_point_to_convert(tiny, name):
    for path in [*shards(tiny), tiny / INDEX]:
        path.unlink()
    (tiny / name).write_bytes(b"pickle")
    with pytest.raises(UnsafeFormat, match="minicpm convert"):
        open_checkpoint(tiny)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"nope", b"\xff\xfe", b'{"a": 1}}', b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"],
    ids=["empty", "cut", "word", "binary", "rest", "deep", "huge number"],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", INDEX])
def test_a_file_that_is_not_json_is_named(tiny, name, text):
    (tiny / name).write_bytes(text)
    with pytest.raises(BadConfig, match="not valid JSON") as caught:
        open_checkpoint(tiny)
    assert name in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["[]", "null", "3", '"text"'])
def test_json_that_is_no_object_is_named(tiny, text):
    (tiny / "config.json").write_text(text)
    with pytest.raises(BadConfig, match=r"config\.json holds a JSON .* where an object is needed"):
        open_checkpoint(tiny)


def test_all_git_lfs_pointers_are_named_with_the_way_out(tiny):
    for path in shards(tiny)[:2]:
        path.write_bytes(POINTER)
    (tiny / "tokenizer.json").write_bytes(POINTER)
    with pytest.raises(LfsPointer, match="git lfs pull") as caught:
        open_checkpoint(tiny)
    for name in ("tokenizer.json", *(path.name for path in shards(tiny)[:2])):
        assert name in str(caught.value)


def test_a_config_that_is_a_pointer_is_not_called_broken_json(tiny):
    (tiny / "config.json").write_bytes(POINTER)
    with pytest.raises(LfsPointer, match=r"config\.json"):
        open_checkpoint(tiny)


@pytest.mark.parametrize("cut", [1, 1000, -3])
def test_a_shard_of_the_wrong_length_gives_both_lengths(tiny, cut):
    shard = shards(tiny)[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:-cut] if cut > 0 else content + bytes(-cut))
    with pytest.raises(TruncatedFile, match=f"{len(content)} bytes, it has {len(content) - cut}"):
        open_checkpoint(tiny)


def test_absent_shards_are_all_named(tiny):
    names = [path.name for path in shards(tiny)]
    for path in shards(tiny)[:2]:
        path.unlink()
    with pytest.raises(MalformedFile, match=f"not in the folder: {names[0]}, {names[1]}"):
        open_checkpoint(tiny)


def test_a_shard_the_index_does_not_name_is_reported(tiny):
    shutil.copy(shards(tiny)[0], tiny / "model-00009-of-00009.safetensors")
    with pytest.raises(MalformedFile, match=r"does not name these shards.*00009"):
        open_checkpoint(tiny)


def test_an_index_and_shards_that_disagree_are_reported_in_one_message(tiny):
    names = list(open_checkpoint(tiny).tensors)
    edit_index(
        tiny,
        lambda placed: placed.update({"extra.weight": next(iter(placed.values()))}) or placed.pop(names[3]),
    )
    with pytest.raises(MalformedFile) as caught:
        open_checkpoint(tiny)
    assert "not in the file it gives for them: extra.weight" in str(caught.value)
    assert f"that the shards hold: {names[3]}" in str(caught.value)


def test_a_tensor_in_two_shards_is_reported(tiny):
    first, second = shards(tiny)[:2]
    both = load_file(first) | load_file(second)
    save_file(both, second)
    with pytest.raises(MalformedFile, match="same tensors twice"):
        open_checkpoint(tiny)


@pytest.mark.parametrize("value", [None, [], {}, {"a": 1}, {"a": None}, "model.safetensors"])
def test_an_index_without_a_map_is_refused(tiny, value):
    (tiny / INDEX).write_text(json.dumps({"weight_map": value}))
    with pytest.raises(MalformedFile, match="no weight_map"):
        open_checkpoint(tiny)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\\b", "a\0b", "."]
)
def test_shard_names_that_could_leave_the_folder_are_refused(tiny, name):
    edit_index(tiny, lambda placed: placed.update(dict.fromkeys(placed, name)))
    with pytest.raises(CheckpointError, match="separators"):
        open_checkpoint(tiny)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model-00001-of-00004.safetensors"])
def test_links_out_of_the_folder_are_refused(tiny, tmp_path, name):
    outside = shutil.move(tiny / name, tmp_path / "outside")
    os.symlink(outside, tiny / name)
    with pytest.raises(CheckpointError, match="outside the model's folder"):
        open_checkpoint(tiny)


def test_links_of_a_hugging_face_cache_are_followed_within_their_repository(tiny, tmp_path):
    repository = tmp_path / "models--openbmb--MiniCPM4-0.5B"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(tiny.iterdir())):
        shutil.move(path, repository / "blobs" / str(number))
        os.symlink(f"../../blobs/{number}", snapshot / path.name)
    assert open_checkpoint(snapshot).total_bytes > 0
    secret = tmp_path / "secret"
    secret.write_text("{}")
    (snapshot / "config.json").unlink()
    os.symlink(secret, snapshot / "config.json")
    with pytest.raises(CheckpointError, match="outside"):
        open_checkpoint(snapshot)


def test_a_pipe_in_place_of_a_file_is_refused_without_waiting_for_it(tiny):
    (tiny / "config.json").unlink()
    os.mkfifo(tiny / "config.json")
    with pytest.raises(CheckpointError, match="not a regular file"):
        open_checkpoint(tiny)


def test_a_file_that_cannot_be_read_is_a_typed_error(tiny, monkeypatch):
    original = Path.open

    def refuse(path, *rest, **options):
        if path.suffix == ".safetensors":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *rest, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match=r"\.safetensors cannot be read \(Permission denied\)"):
        open_checkpoint(tiny)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\udcff"])
def test_impossible_paths_are_typed_errors(name):
    with pytest.raises(NotACheckpoint, match="does not exist"):
        open_checkpoint(name)


def test_python_files_beside_a_model_are_never_imported(tiny, monkeypatch):
    """The canary of remote code: auto_map and modeling files are data."""
    (tiny / "modeling_minicpm.py").write_text("raise SystemExit('the canary ran')")
    raw = json.loads((tiny / "config.json").read_text())
    raw["auto_map"] = {"AutoModelForCausalLM": "modeling_minicpm.MiniCPMForCausalLM"}
    (tiny / "config.json").write_text(json.dumps(raw))
    opened: list[str] = []
    original = builtins.open
    monkeypatch.setattr(
        builtins, "open", lambda file, *a, **k: opened.append(str(file)) or original(file, *a, **k)
    )
    from minicpm.checkpoint import load

    load(open_checkpoint(tiny))
    assert not [name for name in opened if name.endswith(".py")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    which=st.sampled_from(["config.json", "generation_config.json", INDEX]),
    content=JSON | st.binary(max_size=60),
)
@settings(max_examples=200, deadline=None)
def test_any_content_of_a_small_file_is_accepted_or_a_typed_error(tmp_path_factory, which, content):
    from minicpm.checkpoint.loading import read_config

    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "config.json").write_text("{}")
    (folder / INDEX).write_text('{"weight_map": {"a": "model-1-of-1.safetensors"}}')
    save_file({"a": torch.zeros(2)}, folder / "model-1-of-1.safetensors")
    (folder / which).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    try:
        read_config(open_checkpoint(folder))
    except MiniCPMError as error:
        found = str(error)
        assert found
