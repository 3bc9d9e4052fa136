"""A pull ends with the right bytes or a typed error, whatever the server does, and wastes little."""

import hashlib
import json
import os
import socket
from pathlib import Path

import pytest

from minicpm.checkpoint import list_models, pull
from minicpm.checkpoint.hub import transfer
from minicpm.checkpoint.hub.manifest import NAME, read_manifest
from minicpm.errors import DownloadFailed, HashMismatch, HubError, NotAllowed, NotOnHub, Offline

WEIGHTS = "model.safetensors"


def pulled(hub, files, patience):
    hub.add("org/model", files)
    return pull("org/model", patience=patience)


@pytest.mark.parametrize("name", ["truncate", "reset", "stall", "endless"])
def test_a_passing_fault_still_gives_the_right_bytes(hub, model_files, haste, faults, name):
    hub.faults[WEIGHTS] = [faults[name]]
    folder = pulled(hub, model_files, haste)
    assert (folder / WEIGHTS).read_bytes() == model_files[WEIGHTS]
    assert read_manifest(folder) is not None


@pytest.mark.parametrize("second", ["ignore_range", "wrong_range", "other_version", "flip", "truncate"])
def test_a_fault_while_resuming_still_gives_the_right_bytes(hub, model_files, haste, faults, second):
    hub.faults[WEIGHTS] = [faults["truncate"], faults[second]]
    hub.add("org/model", model_files)
    try:
        folder = pull("org/model", patience=haste)
    except HashMismatch:
        # A mixed file is noticed and dropped; the next pull starts fresh.
        folder = pull("org/model", patience=haste)
    assert (folder / WEIGHTS).read_bytes() == model_files[WEIGHTS]


LASTING = {
    "truncate": DownloadFailed,
    "reset": DownloadFailed,
    "stall": DownloadFailed,
    "endless": DownloadFailed,
    "too_long": HashMismatch,
    "too_short": HashMismatch,
    "flip": HashMismatch,
    "other_version": HashMismatch,
}
REFUSALS = {401: NotAllowed, 403: NotAllowed, 404: NotOnHub, 418: DownloadFailed, 500: DownloadFailed}


@pytest.mark.parametrize("name", LASTING)
def test_a_lasting_fault_is_a_typed_error_and_never_looks_complete(hub, model_files, haste, faults, name):
    hub.faults[WEIGHTS] = [faults["always"](faults[name])]
    with pytest.raises(LASTING[name]) as caught:
        pulled(hub, model_files, haste)
    assert isinstance(caught.value, HubError)
    assert WEIGHTS in str(caught.value)
    assert [model.complete for model in list_models()] == [False]


@pytest.mark.parametrize("code", REFUSALS)
def test_each_refusal_of_a_file_has_its_own_error(hub, model_files, haste, faults, code):
    hub.faults[WEIGHTS] = [faults["always"](faults["status"](code))]
    with pytest.raises(REFUSALS[code], match=str(code)):
        pulled(hub, model_files, haste)


def test_a_busy_server_is_asked_again(hub, model_files, haste, faults):
    hub.faults[WEIGHTS] = [faults["status"](503), faults["status"](429)]
    hub.listing_status = [(503, "")]
    folder = pulled(hub, model_files, haste)
    assert (folder / WEIGHTS).read_bytes() == model_files[WEIGHTS]


def test_resuming_downloads_nothing_twice(hub, model_files, haste, faults):
    hub.faults[WEIGHTS] = [faults["truncate"], faults["truncate"]]
    pulled(hub, model_files, haste)
    assert hub.sent[WEIGHTS] == len(model_files[WEIGHTS])


def test_a_second_pull_goes_on_where_the_first_failed(hub, model_files, haste, faults):
    hub.add("org/model", model_files)
    hub.faults[WEIGHTS] = [faults["truncate"]] + [faults["status"](500)] * 3
    with pytest.raises(DownloadFailed, match="is kept"):
        pull("org/model", patience=haste)
    folder = pull("org/model", patience=haste)
    assert (folder / WEIGHTS).read_bytes() == model_files[WEIGHTS]
    assert hub.sent[WEIGHTS] == len(model_files[WEIGHTS]) + 3 * len(b"no")


def test_progress_that_is_made_is_not_counted_as_a_failed_try(hub, model_files, haste, faults, monkeypatch):
    monkeypatch.setattr(transfer, "_PROGRESS_BYTES", 1000)
    hub.faults[WEIGHTS] = [faults["truncate"]] * 8
    folder = pulled(hub, model_files, haste)
    assert (folder / WEIGHTS).read_bytes() == model_files[WEIGHTS]


def test_a_kept_part_with_foreign_bytes_is_started_afresh(hub, model_files, haste, own_cache):
    repo = hub.add("org/model", model_files)
    partial = own_cache / "models" / "org--model" / f"{repo.commit}.partial"
    partial.mkdir(parents=True)
    (partial / f"{WEIGHTS}.part").write_bytes(b"\xff" * 5000)
    folder = pull("org/model", patience=haste)
    assert (folder / WEIGHTS).read_bytes() == model_files[WEIGHTS]


@pytest.mark.parametrize("extra", [0, 1, 100])
def test_a_kept_part_that_is_full_or_too_long_is_verified_or_dropped(
    hub, model_files, haste, own_cache, extra
):
    repo = hub.add("org/model", model_files)
    partial = own_cache / "models" / "org--model" / f"{repo.commit}.partial"
    partial.mkdir(parents=True)
    (partial / f"{WEIGHTS}.part").write_bytes(model_files[WEIGHTS] + b"z" * extra)
    folder = pull("org/model", patience=haste)
    assert (folder / WEIGHTS).read_bytes() == model_files[WEIGHTS]


def test_a_small_file_is_checked_by_its_git_hash(hub, model_files, haste, faults):
    hub.faults["config.json"] = [faults["always"](faults["flip"])]
    with pytest.raises(HashMismatch, match=r"config\.json"):
        pulled(hub, model_files, haste)


def test_a_refused_connection_is_offline_in_one_message(model_files, haste, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(Offline, match="cannot be reached") as caught:
        pull("org/model", patience=haste)
    assert "\n" not in str(caught.value)


def test_a_server_that_accepts_and_says_nothing_is_offline(model_files, monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(Offline, match="silent"):
            pull("org/model", patience=transfer.Patience(connect_s=0.2, stall_s=0.2, retries=0, pause_s=0.01))


@pytest.mark.parametrize("value", ["huggingface.co", "ftp://x", "http://", "://"])
def test_a_malformed_endpoint_is_refused_by_name(value, monkeypatch, haste):
    monkeypatch.setenv("HF_ENDPOINT", value)
    with pytest.raises(Exception, match="HF_ENDPOINT") as caught:
        pull("org/model", patience=haste)
    assert type(caught.value).__name__ == "BadInput"


def test_an_endpoint_that_is_no_hub_is_told_apart(hub, haste, monkeypatch):
    hub.listing_status = [(200, "")] * 9
    with pytest.raises(DownloadFailed, match="not a hub's description"):
        pull("org/model", patience=haste)


def test_the_manifest_holds_the_sha256_of_every_file(hub, model_files, haste):
    folder = pulled(hub, model_files, haste)
    files = json.loads((folder / NAME).read_text())["files"]
    assert files == {
        name: {"size": len(model_files[name]), "sha256": hashlib.sha256(model_files[name]).hexdigest()}
        for name in files
    }
    assert sorted(os.listdir(folder)) == sorted([*files, NAME])
    assert set(files) == {"config.json", "tokenizer.json", "README.md", WEIGHTS}


def test_names_of_files_never_leave_the_folder(hub, haste, own_cache):
    hub.add(
        "org/model",
        {
            "config.json": b"{}",
            WEIGHTS: b"w",
            "../../evil.safetensors": b"e",
            "..\\evil.json": b"e",
            "/abs.json": b"e",
        },
    )
    folder = pull("org/model", patience=haste)
    assert sorted(path.name for path in folder.iterdir()) == sorted(["config.json", WEIGHTS, NAME])
    assert not list(Path(own_cache).rglob("*evil*"))
