"""A pull takes what a model needs, pins it to a commit, and is found again without the network."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minicpm.checkpoint import list_models, pull, remove, resolve
from minicpm.checkpoint.hub import home
from minicpm.checkpoint.hub.manifest import NAME, damaged_files, read_manifest
from minicpm.errors import (
    BadInput,
    CacheNotWritable,
    DiskFull,
    HashMismatch,
    HubError,
    NotAllowed,
    NotOnHub,
    Offline,
    UnsafeFormat,
)

SRC = Path(__file__).resolve().parents[2] / "src"
WEIGHTS = "model.safetensors"


def test_a_pull_is_pinned_to_the_commit_and_reports_every_byte(hub, model_files, haste, own_cache):
    hub.add("org/model", model_files)
    seen: list[tuple[int, int, str]] = []
    folder = pull("org/model", patience=haste, progress=lambda *step: seen.append(step))
    assert folder == own_cache / "models" / "org--model" / ("a" * 40)
    needed = sum(len(model_files[name]) for name in ("config.json", "tokenizer.json", "README.md", WEIGHTS))
    assert seen[-1][:2] == (needed, needed)
    assert {label for _, _, label in seen} == {"config.json", "tokenizer.json", "README.md", WEIGHTS}


def test_code_and_pickles_are_never_asked_for(hub, model_files, haste):
    hub.add("org/model", model_files)
    pull("org/model", patience=haste)
    assert not [path for path, _ in hub.requests if path.endswith((".py", ".bin"))]


def test_a_second_pull_asks_for_no_file_again(hub, model_files, haste):
    hub.add("org/model", model_files)
    pull("org/model", patience=haste)
    before = dict(hub.sent)
    pull("org/model", patience=haste)
    assert {name: hub.sent[name] for name in before if name in model_files} == {
        name: sent for name, sent in before.items() if name in model_files
    }


def test_resolving_a_pulled_model_never_asks_the_network(hub, model_files, haste):
    hub.add("org/model", model_files)
    folder = pull("org/model", patience=haste)
    count = len(hub.requests)
    assert resolve("org/model") == folder
    assert resolve("org/model", offline=True) == folder
    assert resolve("org/model", revision="a" * 40) == folder
    assert len(hub.requests) == count


def test_a_new_commit_is_pulled_beside_the_old_one(hub, model_files, haste):
    hub.add("org/model", model_files)
    old = pull("org/model", patience=haste)
    hub.add("org/model", model_files | {"config.json": b"{}"}, commit="b" * 40)
    assert resolve("org/model") == old
    new = pull("org/model", patience=haste)
    assert new != old
    assert resolve("org/model") == new
    assert resolve("org/model", revision="a" * 40) == old
    assert [(model.revisions, model.complete) for model in list_models()] == [((), True), (("main",), True)]


def test_offline_without_a_pulled_copy_is_one_clear_message(hub, model_files, monkeypatch):
    for switch in ({"offline": True}, {}):
        monkeypatch.setenv("HF_HUB_OFFLINE", "0" if switch else "1")
        with pytest.raises(Offline, match="minicpm pull org/model"):
            resolve("org/model", **switch)
    assert not hub.requests


def test_an_unknown_repository_gets_a_spelling_hint(hub, haste):
    with pytest.raises(NotOnHub, match=r"did you mean openbmb/MiniCPM4-0\.5B\?"):
        pull("openbmb/minicpm4-0.5", patience=haste)


def test_an_unknown_revision_is_told_apart_from_an_unknown_repository(hub, model_files, haste):
    hub.add("org/model", model_files)
    with pytest.raises(NotOnHub, match="revision 'v9'"):
        pull("org/model", revision="v9", patience=haste)


@pytest.mark.parametrize(("status", "code"), [(403, "GatedRepo"), (401, "GatedRepo"), (403, "")])
def test_a_closed_repository_says_what_opens_it(hub, haste, status, code):
    hub.listing_status = [(status, code)]
    with pytest.raises(NotAllowed, match="HF_TOKEN"):
        pull("org/model", patience=haste)


def test_a_token_is_sent_to_the_endpoint(hub, model_files, haste, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "t" * 20)
    hub.add("org/model", model_files)
    pull("org/model", patience=haste)
    assert {header["authorization"] for header in hub.headers} == {"Bearer hf_" + "t" * 20}


def test_a_token_does_not_follow_a_redirect_to_another_host(hub, model_files, haste, monkeypatch):
    """Hubs redirect weights to storage elsewhere, which must not see the token."""
    monkeypatch.setenv("HF_TOKEN", "hf_" + "t" * 20)
    hub.add("org/model", model_files)
    elsewhere = hub.url.replace("127.0.0.1", "localhost")

    def redirect(handler, content, start):
        handler.answer(302, headers={"Location": elsewhere + handler.path})

    hub.faults[WEIGHTS] = [redirect]
    folder = pull("org/model", patience=haste)
    assert (folder / WEIGHTS).read_bytes() == model_files[WEIGHTS]
    stored = [header for header in hub.headers if header["host"].startswith("localhost")]
    assert len(stored) == 1
    assert "authorization" not in stored[0]


def test_a_commit_that_was_pulled_is_never_asked_for_again(hub, model_files, haste):
    hub.add("org/model", model_files)
    folder = pull("org/model", patience=haste)
    count = len(hub.requests)
    assert pull("org/model", revision="a" * 40, patience=haste) == folder
    assert len(hub.requests) == count


def test_only_pickles_need_to_be_asked_for_by_name(hub, haste):
    hub.add("org/old", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    with pytest.raises(UnsafeFormat, match="minicpm convert"):
        pull("org/old", patience=haste)
    folder = pull("org/old", patience=haste, allow_bin=True)
    assert (folder / "pytorch_model.bin").read_bytes() == b"pickle"


def test_a_repository_without_a_model_lists_what_it_has(hub, haste):
    hub.add("org/data", {"train.csv": b"1", "README.md": b"r"})
    with pytest.raises(NotOnHub, match=r"README\.md, train\.csv"):
        pull("org/data", patience=haste)


def test_a_hub_without_checksums_is_refused(hub, model_files, haste, monkeypatch):
    repo = hub.add("org/model", model_files)
    bare = [{"rfilename": name, "size": len(content)} for name, content in repo.files.items()]
    monkeypatch.setattr(repo, "siblings", lambda: bare)
    with pytest.raises(HashMismatch, match="no size or checksum"):
        pull("org/model", patience=haste)


def test_a_hub_that_gives_no_sound_commit_is_refused(hub, model_files, haste):
    hub.add("org/model", model_files, commit="../../../etc")
    with pytest.raises(HubError, match="no commit"):
        pull("org/model", patience=haste)


def test_too_little_room_is_said_before_anything_is_fetched(hub, model_files, haste, monkeypatch):
    hub.add("org/model", model_files)
    monkeypatch.setattr("minicpm.checkpoint.disk.free_bytes", lambda folder: 1000)
    with pytest.raises(DiskFull, match=r"1,0\d\d,\d\d\d bytes .* 1,000 bytes free"):
        pull("org/model", patience=haste)
    assert not hub.sent[WEIGHTS]


class FullDisk:
    """A file that takes some bytes and then finds the disk full."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def write(self, data):
        if len(data) > self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._room -= len(data)
        return self._file.write(data)


def test_a_disk_that_fills_up_on_the_way_is_a_typed_error_and_the_next_pull_goes_on(
    hub, model_files, haste, monkeypatch
):
    hub.add("org/model", model_files)
    original = Path.open

    def opened(path, mode="r", *rest, **options):
        file = original(path, mode, *rest, **options)
        return FullDisk(file, 300_000) if path.name == f"{WEIGHTS}.part" and "+" in mode else file

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opened)
        with pytest.raises(DiskFull, match="bytes free"):
            pull("org/model", patience=haste)
    assert [model.complete for model in list_models()] == [False]
    folder = pull("org/model", patience=haste)
    assert (folder / WEIGHTS).read_bytes() == model_files[WEIGHTS]


def test_a_cache_that_cannot_be_written_says_so(hub, model_files, haste, tmp_path, monkeypatch):
    hub.add("org/model", model_files)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MINICPM_HOME", str(tmp_path / "file" / "below"))
    with pytest.raises(CacheNotWritable, match="MINICPM_HOME"):
        pull("org/model", patience=haste)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_cache_says_so(hub, model_files, haste, monkeypatch, code):
    hub.add("org/model", model_files)

    def refuse(*_args, **_options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CacheNotWritable, match="cannot be written"):
        pull("org/model", patience=haste)


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MINICPM_HOME", str(tmp_path / "own"))
    assert home.cache_home() == tmp_path / "own"
    monkeypatch.delenv("MINICPM_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert home.cache_home() == tmp_path / "xdg" / "minicpm"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home.cache_home() == tmp_path / ".cache" / "minicpm"


def test_no_home_and_no_variable_is_a_typed_error(monkeypatch):
    monkeypatch.delenv("MINICPM_HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(CacheNotWritable, match="Set MINICPM_HOME"):
        resolve("org/model")


def test_a_folder_with_spaces_and_chinese_characters_is_a_fine_cache(
    hub, model_files, haste, tmp_path, monkeypatch
):
    monkeypatch.setenv("MINICPM_HOME", str(tmp_path / "my models 模型"))
    hub.add("org/model", model_files)
    assert (pull("org/model", patience=haste) / WEIGHTS).read_bytes() == model_files[WEIGHTS]


@pytest.mark.parametrize("harm", ["manifest", "file", "short"])
def test_a_damaged_copy_is_noticed_and_pulled_again(hub, model_files, haste, harm):
    hub.add("org/model", model_files)
    folder = pull("org/model", patience=haste)
    if harm == "manifest":
        (folder / NAME).write_text("{")
    elif harm == "file":
        (folder / WEIGHTS).unlink()
    else:
        (folder / WEIGHTS).write_bytes(b"short")
    assert [model.complete for model in list_models()] == [False]
    with pytest.raises(Offline):
        resolve("org/model", offline=True)
    folder = pull("org/model", patience=haste)
    assert (folder / WEIGHTS).read_bytes() == model_files[WEIGHTS]
    assert hub.sent["config.json"] == len(model_files["config.json"])
    assert hub.sent[WEIGHTS] == len(model_files[WEIGHTS]) * (1 if harm == "manifest" else 2)


def test_a_copy_that_lacks_a_file_of_the_listing_is_completed(hub, model_files, haste):
    weights_only = {name: model_files[name] for name in ("config.json", WEIGHTS)}
    hub.add("org/model", weights_only)
    pull("org/model", patience=haste)
    hub.add("org/model", model_files)
    folder = pull("org/model", patience=haste)
    assert (folder / "tokenizer.json").read_bytes() == model_files["tokenizer.json"]
    assert hub.sent[WEIGHTS] == len(model_files[WEIGHTS])


def test_altered_content_of_the_same_size_is_found_by_reading_it(hub, model_files, haste):
    hub.add("org/model", model_files)
    folder = pull("org/model", patience=haste)
    manifest = read_manifest(folder)
    assert damaged_files(folder, manifest) == []
    (folder / WEIGHTS).write_bytes(b"\0" * len(model_files[WEIGHTS]))
    assert damaged_files(folder, manifest) == [WEIGHTS]


def test_the_list_names_models_with_sizes_and_rm_frees_them(hub, model_files, haste, own_cache):
    assert list_models() == []
    hub.add("org/model", model_files)
    hub.add("org/other", model_files)
    pull("org/model", patience=haste)
    pull("org/other", patience=haste)
    models = list_models()
    assert [model.name for model in models] == ["org/model", "org/other"]
    assert remove("org/model") == models[0].bytes
    assert [model.name for model in list_models()] == ["org/other"]
    assert list((own_cache / "trash").iterdir()) == []


def test_removing_what_is_not_there_lists_what_is(hub, model_files, haste):
    with pytest.raises(BadInput, match="holds no models"):
        remove("org/model")
    hub.add("org/model", model_files)
    pull("org/model", patience=haste)
    with pytest.raises(BadInput, match="Pulled models: org/model"):
        remove("org/mode")


def test_removing_a_model_that_another_process_pulls_is_refused(hub, model_files, haste):
    hub.add("org/model", model_files)
    pull("org/model", patience=haste)
    lock = home.lock_file(home.HubName("hf", "org", "model"))
    code = f"""
import time
from pathlib import Path
from minicpm.checkpoint.lock import held
with held(Path({str(lock)!r})):
    print("held", flush=True)
    time.sleep(30)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SRC)},
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(HubError, match="another process"):
            remove("org/model")
        other.kill()
    assert remove("org/model") > 0


PULL = """
import sys
from minicpm.checkpoint import pull
from minicpm.checkpoint.hub.transfer import Patience
print(pull("org/model", patience=Patience(2.0, 2.0, 3, 0.01)))
"""


def child(code):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SRC)},
    )


def test_two_processes_may_pull_the_same_model_at_once(hub, model_files):
    hub.add("org/model", model_files)
    children = [child(PULL) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in children]
    assert [process.returncode for process in children] == [0, 0], outputs
    assert len({out for out, _ in outputs}) == 1
    assert hub.sent[WEIGHTS] == len(model_files[WEIGHTS])


def test_a_pull_killed_at_any_moment_leaves_nothing_that_looks_complete(hub, model_files, haste, faults):
    files = {f"model-0000{i}-of-00004.safetensors": bytes([i]) * 200_000 for i in range(1, 5)}
    index = json.dumps({"weight_map": {str(i): name for i, name in enumerate(files)}}).encode()
    files |= {"config.json": b"{}", "model.safetensors.index.json": index}
    hub.add("org/model", files)

    def slow(handler, content, start):
        handler.start(200, len(content))
        for at in range(0, len(content), 20_000):
            handler.send(content[at : at + 20_000])
            time.sleep(0.004)

    for name in files:
        hub.faults[name] = [faults["always"](slow)]
    for moment in (0.0, 0.02, 0.05, 0.09, 0.14, 0.17, 0.21):
        before = len(hub.requests)
        with child(PULL) as process:
            while len(hub.requests) == before and process.poll() is None:
                time.sleep(0.005)
            time.sleep(moment)
            process.kill()
        for model in list_models():
            if model.complete:
                manifest = read_manifest(model.path)
                assert damaged_files(model.path, manifest) == []
    for name in files:
        hub.faults[name] = []
    folder = pull("org/model", patience=haste)
    assert {name: (folder / name).read_bytes() for name in files} == files
    assert [entry.name for entry in folder.parent.iterdir() if entry.is_dir()] == [folder.name]
