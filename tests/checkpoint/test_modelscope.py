"""ms:ORG/NAME goes through ModelScope's client, is verified by us, and says what is missing without it."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from minicpm.checkpoint import list_models, pull, resolve
from minicpm.errors import DownloadFailed, HashMismatch, MissingExtra, NotAllowed, NotOnHub, Offline

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "configuration_minicpm.py": b"raise SystemExit",
}


@dataclass
class Entry:
    path: str
    size: int
    sha256: str | None
    type: str = "blob"


class HubFailure(Exception):
    pass


class NetworkError(HubFailure, ConnectionError):
    pass


class NotExistError(HubFailure):
    pass


class AuthenticationError(HubFailure):
    pass


class PermissionDeniedError(HubFailure):
    pass


@pytest.fixture
def client(monkeypatch):
    """A stand-in for the `modelscope_hub` package: the calls and errors that are used of it."""
    state = SimpleNamespace(files=dict(FILES), listing_error=None, altered=False, asked=[])

    class HubApi:
        def list_repo_files(self, repo_id, repo_type, *, revision=None, recursive=True):
            state.asked.append((repo_id, repo_type, revision))
            if state.listing_error is not None:
                raise state.listing_error
            found = [Entry(n, len(c), hashlib.sha256(c).hexdigest()) for n, c in state.files.items()]
            return [*found, Entry("folder", 0, None, "tree")]

        def download_file(self, repo_id, repo_type, file_path, *, revision=None, local_dir=None):
            state.asked.append(file_path)
            target = Path(local_dir) / file_path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(state.files[file_path] + (b"!" if state.altered else b""))
            return target

    module = SimpleNamespace(
        HubApi=HubApi,
        HubError=HubFailure,
        NetworkError=NetworkError,
        NotExistError=NotExistError,
        AuthenticationError=AuthenticationError,
        PermissionDeniedError=PermissionDeniedError,
    )
    monkeypatch.setitem(sys.modules, "modelscope_hub", module)
    return state


def test_a_pull_takes_the_same_files_and_is_found_again(client):
    folder = pull("ms:org/model")
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert not (folder / "configuration_minicpm.py").exists()
    assert resolve("ms:org/model") == folder
    assert resolve("ms:org/model", offline=True) == folder
    assert [(model.name, model.revisions) for model in list_models()] == [("ms:org/model", ("master",))]
    assert client.asked[0] == ("org/model", "model", "master")


def test_a_changed_repository_is_another_snapshot(client):
    first = pull("ms:org/model")
    client.files["model.safetensors"] = b"others!"
    second = pull("ms:org/model")
    assert first != second
    assert first.parent == second.parent


def test_what_the_client_brings_is_verified(client):
    client.altered = True
    with pytest.raises(HashMismatch, match="ModelScope announced"):
        pull("ms:org/model")
    assert [model.complete for model in list_models()] == [False]


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (NotExistError("x"), NotOnHub),
        (NetworkError("x"), Offline),
        (AuthenticationError("x"), NotAllowed),
        (PermissionDeniedError("x"), NotAllowed),
        (HubFailure("x"), DownloadFailed),
    ],
)
def test_the_clients_errors_become_ours(client, raised, expected):
    client.listing_error = raised
    with pytest.raises(expected, match=r"ModelScope"):
        pull("ms:org/model")


def test_a_listing_without_checksums_is_refused(client, monkeypatch):
    monkeypatch.setattr(hashlib, "sha256", lambda *_: SimpleNamespace(hexdigest=lambda: ""))
    with pytest.raises(HashMismatch, match="could not be verified"):
        pull("ms:org/model")


def test_without_the_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    with pytest.raises(MissingExtra, match=r"minicpm\[ms\]"):
        pull("ms:org/model")
