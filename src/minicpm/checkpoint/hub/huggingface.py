"""Asks Hugging Face, or the mirror in HF_ENDPOINT, what a repository holds."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from minicpm._version import __version__
from minicpm.checkpoint.files import listed, shown
from minicpm.checkpoint.hub.listing import Listing, RemoteFile, choose_files
from minicpm.checkpoint.hub.names import HubName, is_commit, is_sha256
from minicpm.checkpoint.hub.spelling import suggestion
from minicpm.checkpoint.hub.transfer import Patience, Report, describe, fetch, http_error
from minicpm.errors import BadInput, DownloadFailed, HashMismatch, HubError, NotAllowed, NotOnHub, Offline

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

_DEFAULT_ENDPOINT = "https://huggingface.co"


class HuggingFace:
    """The hub behind plain ORG/NAME."""

    default_revision = "main"

    def __init__(self, patience: Patience) -> None:
        self._patience = patience

    def list_files(self, name: HubName, revision: str, *, allow_bin: bool) -> Listing:
        """The needed files of `name` at the commit that `revision` means now."""
        endpoint = endpoint_from_environment()
        info = self._ask(name, revision, endpoint)
        if not is_commit(info.sha):
            raise DownloadFailed(
                f"{shown(endpoint)} gave no commit for {name}; without one nothing can be pinned."
            )
        siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
        chosen = choose_files(name, sorted(siblings), allow_bin=allow_bin)
        commit = str(info.sha)
        files = tuple(_remote_file(name, endpoint, commit, siblings[n]) for n in chosen)
        return Listing(name, endpoint, revision, commit, files, _headers())

    def fetch(self, listing: Listing, file: RemoteFile, folder: Path, report: Report) -> str:
        """Bring one file into `folder`; its sha256."""
        return fetch(file, folder, headers=listing.headers, patience=self._patience, report=report)

    def _ask(self, name: HubName, revision: str, endpoint: str) -> "ModelInfo":
        strikes = 0
        while True:
            try:
                return _model_info(name, revision, endpoint, self._patience)
            except DownloadFailed:
                strikes += 1
                if strikes > self._patience.retries:
                    raise
                self._patience.pause(strikes)


def endpoint_from_environment() -> str:
    """HF_ENDPOINT when set, else the public hub; raises BadInput for a value that is no http address."""
    endpoint = os.environ.get("HF_ENDPOINT") or _DEFAULT_ENDPOINT
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise BadInput(
            f"HF_ENDPOINT is {shown(repr(endpoint))}, which is no http address. Set it to the hub or mirror "
            f"to use, such as {_DEFAULT_ENDPOINT}, or unset it."
        )
    return endpoint.rstrip("/")


def _headers() -> Mapping[str, str]:
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    return dict(build_hf_headers(library_name="minicpm", library_version=__version__))


def _model_info(name: HubName, revision: str, endpoint: str, patience: Patience) -> "ModelInfo":
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi(endpoint=endpoint, library_name="minicpm", library_version=__version__)
    try:
        return api.model_info(name.repo, revision=revision, files_metadata=True, timeout=patience.connect_s)
    except HfHubHTTPError as error:
        raise _refused(error, name, revision, endpoint) from error
    except OfflineModeIsEnabled as error:
        raise switched_off(name) from error
    except http_error() as error:
        raise Offline(
            f"{shown(endpoint)} cannot be reached ({describe(error)}), and {name} is not in the cache. Check "
            "the network, or set HF_ENDPOINT to a mirror that you can reach."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadFailed(
            f"{shown(endpoint)} answered for {name} with something that is not a hub's description of a "
            "model. Check HF_ENDPOINT, and whether a log-in page stands between you and the network."
        ) from error


def _refused(error: Any, name: HubName, revision: str, endpoint: str) -> HubError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    status = error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return NotOnHub(
            f"{name} has no revision {shown(repr(revision))} on {shown(endpoint)}. Give a branch, a tag or a "
            "full commit."
        )
    if isinstance(error, GatedRepoError):
        return NotAllowed(
            f"{name} is gated on {shown(endpoint)}. Accept its terms on its page, make an access token, and "
            "set HF_TOKEN."
        )
    # Without a token the hub answers 401 for a repository that does not exist, as for a private one.
    if isinstance(error, RepositoryNotFoundError) or status in {401, 404}:
        return NotOnHub(
            f"{shown(endpoint)} knows no model {name}{suggestion(name)}. Check the spelling; if it is "
            "private, set HF_TOKEN to a token that may read it."
        )
    if status == 403:
        return NotAllowed(
            f"{shown(endpoint)} does not let you read {name} (403). Check the token in HF_TOKEN."
        )
    return DownloadFailed(f"{shown(endpoint)} answered {status} when asked for {name}. Try again later.")


def switched_off(name: HubName) -> Offline:
    """The error for a model that is not in the cache while the network is switched off."""
    return Offline(
        f"{name} is not in the cache, and the network is switched off (offline mode or HF_HUB_OFFLINE). Pull "
        f"it once with the network on: `minicpm pull {name}`."
    )


def _remote_file(name: HubName, endpoint: str, commit: str, sibling: "RepoSibling") -> RemoteFile:
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(name.repo, sibling.rfilename, revision=commit, endpoint=endpoint)
    sha256 = sibling.lfs.sha256 if sibling.lfs is not None and is_sha256(sibling.lfs.sha256) else None
    blob = sibling.blob_id if sibling.lfs is None and is_commit(sibling.blob_id) else None
    size = sibling.size
    if (sha256 is None and blob is None) or not isinstance(size, int) or size < 0:
        raise HashMismatch(
            f"{shown(endpoint)} gives no size or checksum for {listed([sibling.rfilename])} of {name}, so "
            "what arrives could not be verified. Use a hub or mirror that does."
        )
    return RemoteFile(sibling.rfilename, size, url, sha256=sha256, git_blob=blob)
