"""Pulls from ModelScope through its own client, and checks every file's sha256 itself."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from minicpm.checkpoint.files import shown
from minicpm.checkpoint.hub.home import writing
from minicpm.checkpoint.hub.listing import Listing, RemoteFile, choose_files
from minicpm.checkpoint.hub.manifest import sha256_of
from minicpm.checkpoint.hub.names import HubName, is_sha256
from minicpm.checkpoint.hub.transfer import Report
from minicpm.errors import DownloadFailed, HashMismatch, MissingExtra, NotAllowed, NotOnHub, Offline

_KIND = "model"
_STAGING = ".client"


class ModelScope:
    """The hub behind ms:ORG/NAME."""

    default_revision = "master"

    def __init__(self) -> None:
        self._client = _import_client()

    def list_files(self, name: HubName, revision: str, *, allow_bin: bool) -> Listing:
        """The needed files at `revision` as it is now.

        ModelScope tells no commit for a branch, so the snapshot is named by its own content: the digest over
        every needed file's name and sha256.
        """
        with self._errors(name):
            entries = self._client.HubApi().list_repo_files(
                name.repo, _KIND, revision=revision, recursive=True
            )
        found = {entry.path: entry for entry in entries if entry.type != "tree"}
        files = tuple(
            _remote_file(name, found[n]) for n in choose_files(name, sorted(found), allow_bin=allow_bin)
        )
        return Listing(name, "modelscope", revision, _content_id(files), files)

    def fetch(self, listing: Listing, file: RemoteFile, folder: Path, report: Report) -> str:
        """Bring one file into `folder`; its sha256."""
        staging = folder / _STAGING
        with self._errors(listing.name), writing(folder, needed=file.size):
            arrived = self._client.HubApi().download_file(
                listing.name.repo, _KIND, file.name, revision=listing.revision, local_dir=staging
            )
            digest = sha256_of(Path(arrived))
            if digest == file.sha256:
                os.replace(arrived, folder / file.name)
        shutil.rmtree(staging, ignore_errors=True)
        if digest != file.sha256:
            raise HashMismatch(
                f"{file.name} of {listing.name} arrived with sha256 {digest}, where ModelScope announced "
                f"{file.sha256}. It was deleted; pull again."
            )
        report(file.size)
        return digest

    @contextmanager
    def _errors(self, name: HubName) -> Iterator[None]:
        """Turn the client's errors into ours."""
        client = self._client
        try:
            yield
        except client.NotExistError as error:
            raise NotOnHub(
                f"ModelScope knows no model {name.repo} or not this revision of it. Check both."
            ) from error
        except (client.AuthenticationError, client.PermissionDeniedError) as error:
            raise NotAllowed(
                f"ModelScope does not let you read {name.repo}. Log in with its own client first (`ms "
                "login`)."
            ) from error
        except client.NetworkError as error:
            raise Offline(
                f"ModelScope cannot be reached ({shown(str(error))}). Check the network."
            ) from error
        except client.HubError as error:
            raise DownloadFailed(
                f"ModelScope's client failed on {name.repo}: {shown(str(error))}. Try again."
            ) from error


def _import_client() -> Any:
    try:
        return import_module("modelscope_hub")
    except ImportError as error:
        raise MissingExtra(
            "Names that begin with ms: need ModelScope's client, which is not installed. Install it with "
            "`pip install 'minicpm[ms]'`, or pull the model from Hugging Face by its plain ORG/NAME."
        ) from error


def _remote_file(name: HubName, entry: Any) -> RemoteFile:
    if not is_sha256(entry.sha256) or not isinstance(entry.size, int):
        raise HashMismatch(
            f"ModelScope gives no size or sha256 for {shown(str(entry.path))} of {name}, so it could not be "
            "verified."
        )
    return RemoteFile(entry.path, entry.size, url=f"{name}/{entry.path}", sha256=entry.sha256)


def _content_id(files: tuple[RemoteFile, ...]) -> str:
    lines = "".join(f"{file.sha256} {file.name}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()
