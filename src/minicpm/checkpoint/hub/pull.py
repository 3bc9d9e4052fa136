"""Pulls a model into the cache: nothing counts until every file is verified and the manifest is written."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from minicpm.checkpoint.atomic import sync_folder
from minicpm.checkpoint.hub.home import lock_file, repo_folder, require_room, writing
from minicpm.checkpoint.hub.huggingface import HuggingFace, switched_off
from minicpm.checkpoint.hub.listing import Listing, RemoteFile
from minicpm.checkpoint.hub.manifest import FileRecord, Manifest, read_manifest, sha256_of, write_manifest
from minicpm.checkpoint.hub.modelscope import ModelScope
from minicpm.checkpoint.hub.names import HubName, check_revision, is_commit, parse_name
from minicpm.checkpoint.hub.refs import read_refs, remember
from minicpm.checkpoint.hub.transfer import Patience, Report
from minicpm.checkpoint.hub.trash import discard, empty_trash
from minicpm.checkpoint.lock import held
from minicpm.checkpoint.progress import Progress

PARTIAL = ".partial"
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


class Hub(Protocol):
    """What pulling needs of a hub."""

    default_revision: str

    def list_files(self, name: HubName, revision: str, *, allow_bin: bool) -> Listing:
        """The needed files at one pinned commit."""
        ...

    def fetch(self, listing: Listing, file: RemoteFile, folder: Path, report: Report) -> str:
        """Bring one verified file into `folder`; its sha256."""
        ...


def pull(
    name: str | HubName,
    *,
    revision: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
    allow_bin: bool = False,
    patience: Patience | None = None,
) -> Path:
    """The folder of `name` at the commit `revision` means now, fetched as far as it is not there.

    Offline, whether by the argument or by HF_HUB_OFFLINE, the commit of the last pull is used, or Offline
    is raised. Every way this can fail has its own HubError; what was fetched is kept for the next try.
    """
    name = parse_name(name) if isinstance(name, str) else name
    if offline or is_switched_off():
        found = find_pulled(name, revision)
        if found is None:
            raise switched_off(name)
        return found
    hub: Hub = ModelScope() if name.hub == "ms" else HuggingFace(patience or Patience())
    wanted = hub.default_revision if revision is None else check_revision(revision)
    pinned = find_pulled(name, wanted) if is_commit(wanted) else None
    return pinned or _keep(hub, hub.list_files(name, wanted, allow_bin=allow_bin), progress)


def find_pulled(name: HubName, revision: str | None = None) -> Path | None:
    """The complete folder that the last pull of this revision gave, or None; never asks the network."""
    default = ModelScope.default_revision if name.hub == "ms" else HuggingFace.default_revision
    wanted = default if revision is None else check_revision(revision)
    folder = repo_folder(name)
    commit = wanted if is_commit(wanted) else read_refs(folder).get(wanted)
    if commit is None or read_manifest(folder / commit) is None:
        return None
    return folder / commit


def is_switched_off() -> bool:
    """True when the environment says so, read as huggingface_hub reads it."""
    return any(
        os.environ.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def _keep(hub: Hub, listing: Listing, progress: Progress | None) -> Path:
    folder = repo_folder(listing.name)
    final = folder / listing.commit
    with writing(folder, needed=listing.total_bytes):
        for needed in (folder, lock_file(listing.name).parent):
            needed.mkdir(parents=True, exist_ok=True)
        with held(lock_file(listing.name), waiting=_say_waiting(listing, progress)):
            folder.mkdir(exist_ok=True)
            if not _is_whole(final, listing):
                empty_trash()
                _reopen(final)
                _fetch_all(hub, listing, final, progress)
            remember(folder, listing.revision, listing.commit)
    return final


def _is_whole(final: Path, listing: Listing) -> bool:
    """True when the folder is complete and has every file of the listing."""
    manifest = read_manifest(final)
    return manifest is not None and all(file.name in manifest.files for file in listing.files)


def _reopen(final: Path) -> None:
    """Make a damaged folder partial again, so that its sound files are verified and kept."""
    partial = _partial(final)
    if final.exists() and not partial.exists():
        os.replace(final, partial)
    discard(final)


def _partial(final: Path) -> Path:
    return final.with_name(final.name + PARTIAL)


def _say_waiting(listing: Listing, progress: Progress | None) -> Callable[[], None]:
    def say() -> None:
        if progress is not None:
            progress(0, listing.total_bytes, f"waiting for another process that works on {listing.name}")

    return say


def _fetch_all(hub: Hub, listing: Listing, final: Path, progress: Progress | None) -> None:
    """Fetch into the partial folder, write its manifest last, and give it its final name."""
    partial = _partial(final)
    partial.mkdir(exist_ok=True)
    present = {file.name: _bytes_there(partial, file) for file in listing.files}
    require_room(partial, listing.total_bytes - sum(present.values()))
    records: dict[str, FileRecord] = {}
    finished = 0
    for file in listing.files:
        meter = _meter(progress, finished, listing.total_bytes, file.name)
        records[file.name] = FileRecord(file.size, _fetch_one(hub, listing, file, partial, meter))
        finished += file.size
        meter(file.size)
    _drop_others(partial, set(records))
    write_manifest(
        partial, Manifest(str(listing.name), listing.endpoint, listing.revision, listing.commit, records)
    )
    os.replace(partial, final)
    sync_folder(final.parent)


def _meter(progress: Progress | None, finished: int, total: int, label: str) -> Report:
    def report(done: int) -> None:
        if progress is not None:
            progress(finished + done, total, label)

    return report


def _fetch_one(hub: Hub, listing: Listing, file: RemoteFile, partial: Path, report: Report) -> str:
    """Fetch unless an earlier, interrupted pull already verified and renamed this file."""
    done = partial / file.name
    if done.is_file() and file.matches(done):
        return file.sha256 or sha256_of(done)
    done.unlink(missing_ok=True)
    return hub.fetch(listing, file, partial, report)


def _bytes_there(partial: Path, file: RemoteFile) -> int:
    for path in (partial / file.name, partial / f"{file.name}.part"):
        if path.is_file():
            return min(path.stat().st_size, file.size)
    return 0


def _drop_others(partial: Path, wanted: set[str]) -> None:
    """Remove what an earlier try left and this listing does not name."""
    for entry in partial.iterdir():
        if entry.name not in wanted:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
