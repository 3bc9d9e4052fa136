"""What a user calls a model becomes a folder, or a sentence that says what would work."""

import os

import pytest

from minicpm.checkpoint import resolve
from minicpm.checkpoint import resolving as module
from minicpm.errors import BadInput, NotACheckpoint, Offline


def test_an_existing_folder_is_itself(tmp_path, monkeypatch):
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert os.path.samefile(resolve("org/name"), tmp_path / "org" / "name")
    assert resolve(str(tmp_path)) == tmp_path


def test_nano_is_the_packaged_model_even_beside_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "nano").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_packaged", lambda name: tmp_path / "packaged")
    assert resolve("nano") == tmp_path / "packaged"
    assert os.path.samefile(resolve("./nano"), tmp_path / "nano")


def test_a_package_without_nano_says_so(monkeypatch):
    with pytest.raises(NotACheckpoint, match="does not carry"):
        module._packaged("nano-that-is-not-there")


def test_an_unknown_word_lists_what_would_work():
    with pytest.raises(BadInput, match=r"no folder 'foo' here.*ORG/NAME.*minicpm models"):
        resolve("foo")


@pytest.mark.parametrize("name", ["./missing", "../missing", "/missing/model", "~/missing"])
def test_a_path_that_is_not_there_is_called_a_path(name):
    with pytest.raises(NotACheckpoint, match="does not exist"):
        resolve(name)


def test_a_file_is_not_a_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(NotACheckpoint, match="is a file"):
        resolve(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    "name", ["", "\0", "a\0b", "x" * 5000, "a/b/c", "\udcff", "https://huggingface.co/a/b"]
)
def test_strange_names_are_typed_errors(name):
    with pytest.raises((BadInput, NotACheckpoint)):
        resolve(name)


def test_offline_a_model_that_was_never_pulled_is_one_sentence():
    with pytest.raises(Offline, match="minicpm pull org/name"):
        resolve("org/name", offline=True)
