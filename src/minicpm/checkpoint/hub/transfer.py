"""Downloads one file: resumes, retries, notices damage, and keeps only what the hub announced."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from minicpm.checkpoint.files import shown
from minicpm.checkpoint.hub.home import writing
from minicpm.checkpoint.hub.listing import RemoteFile
from minicpm.checkpoint.hub.manifest import sha256_of
from minicpm.errors import DownloadFailed, HashMismatch, NotAllowed, NotOnHub

if TYPE_CHECKING:
    from httpx2 import Response

# A try that moved at least this far is not counted against the retries.
_PROGRESS_BYTES = 8 << 20
_RETRIED = frozenset({408, 416, 429, 500, 502, 503, 504})
_NOT_ALLOWED = frozenset({401, 403})
_ABSENT = frozenset({404, 410})

Report = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a silent server is waited for, and how often a fruitless try is repeated."""

    connect_s: float = 10.0
    stall_s: float = 30.0
    retries: int = 5
    pause_s: float = 1.0

    def pause(self, strikes: int) -> None:
        """Wait before the next try, longer each time."""
        time.sleep(min(self.pause_s * 2.0 ** (strikes - 1), 30.0))


class _Stopped(Exception):
    """A try that ended early and is worth another; the text says how it ended."""


def fetch(
    file: RemoteFile, folder: Path, *, headers: Mapping[str, str], patience: Patience, report: Report
) -> str:
    """Bring `file` into `folder` under its name and return its sha256.

    What is there of an interrupted download is resumed. `report` gets the bytes of this file that are on the
    disk. Raises HashMismatch when the content is not what the hub announced even from a fresh start.
    """
    part = folder / f"{file.name}.part"
    part.touch()
    resumed = part.stat().st_size > 0
    _complete(file, part, headers=headers, patience=patience, report=report)
    if resumed and not file.matches(part):
        # The kept part may stem from a cut or altered transfer; one fresh start decides.
        os.truncate(part, 0)
        _complete(file, part, headers=headers, patience=patience, report=report)
    if not file.matches(part):
        part.unlink()
        raise HashMismatch(
            f"{shown(file.url)} arrived with {file.size} bytes, but its checksum is not the one the hub "
            f"announced ({file.sha256 or file.git_blob}), so it was deleted. Pull again; if it happens "
            "again, something between you and the hub alters files."
        )
    digest = file.sha256 or sha256_of(part)
    os.replace(part, folder / file.name)
    return digest


def _complete(
    file: RemoteFile, part: Path, *, headers: Mapping[str, str], patience: Patience, report: Report
) -> None:
    """Stream until the part has the announced size; raises DownloadFailed after too many fruitless tries."""
    strikes = 0
    while (have := part.stat().st_size) != file.size:
        reason = _one_try(file, part, have, headers=headers, patience=patience, report=report)
        if reason is None:
            continue
        strikes = 1 if part.stat().st_size - have >= _PROGRESS_BYTES else strikes + 1
        if strikes > patience.retries:
            raise DownloadFailed(
                f"{shown(file.url)} stopped at {part.stat().st_size:,} of {file.size:,} bytes ({reason}), "
                f"and {patience.retries} retries got no further. What arrived is kept; run the same command "
                "again to go on."
            )
        patience.pause(strikes)


def _one_try(
    file: RemoteFile, part: Path, have: int, *, headers: Mapping[str, str], patience: Patience, report: Report
) -> str | None:
    """Stream once; the reason it ended early, or None."""
    try:
        _stream(file, part, have, headers=headers, patience=patience, report=report)
    except _Stopped as stop:
        return str(stop)
    except http_error() as error:
        return describe(error)
    return None


def _stream(
    file: RemoteFile, part: Path, have: int, *, headers: Mapping[str, str], patience: Patience, report: Report
) -> None:
    from huggingface_hub import get_session

    have = 0 if have > file.size else have
    asked = {**headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    timeout = (patience.connect_s, patience.stall_s, patience.stall_s, patience.connect_s)
    with get_session().stream(
        "GET", file.url, headers=asked, timeout=timeout, follow_redirects=True
    ) as response:
        start = _start(file, response, have, part)
        _write(file, response, part, start, report)


def _start(file: RemoteFile, response: "Response", have: int, part: Path) -> int:
    """The position in the file at which this answer begins; raises for answers that are none."""
    status = response.status_code
    if status == 206:
        start, total = _content_range(response.headers.get("content-range", ""))
        _check_length(file, total)
        if start == have:
            return have
        os.truncate(part, 0)
        raise _Stopped(f"the server sent bytes from {start} where {have} was asked for")
    if status == 200:
        encoded = response.headers.get("content-encoding")
        length = response.headers.get("content-length", "")
        _check_length(file, int(length) if length.isdigit() and not encoded else None)
        return 0
    raise _refusal(file, status, part)


def _refusal(file: RemoteFile, status: int, part: Path) -> Exception:
    if status == 416:
        os.truncate(part, 0)
    if status in _RETRIED:
        return _Stopped(f"the server answered {status}")
    if status in _NOT_ALLOWED:
        return NotAllowed(
            f"The hub answered {status} for {shown(file.url)}: the repository is gated or private. Accept "
            "its terms on its page, make an access token, and set HF_TOKEN to it."
        )
    if status in _ABSENT:
        return NotOnHub(f"The hub lists {shown(file.url)} but answered {status} for it. Pull again later.")
    return DownloadFailed(
        f"The server answered {status} for {shown(file.url)}, which is no file. Try again later."
    )


def _content_range(value: str) -> tuple[int | None, int | None]:
    """First byte and total of `bytes 10-99/100`; None for what is not said."""
    span, _, total = value.removeprefix("bytes ").partition("/")
    first = span.partition("-")[0]
    return (int(first) if first.isdigit() else None), (int(total) if total.isdigit() else None)


def _check_length(file: RemoteFile, length: int | None) -> None:
    if length is not None and length != file.size:
        raise HashMismatch(
            f"{shown(file.url)} would give {length:,} bytes, where the hub announced {file.size:,}; it is "
            "refused. Something between you and the hub alters answers (a proxy or a log-in page?); pull "
            "again from another network."
        )


def _write(file: RemoteFile, response: "Response", part: Path, start: int, report: Report) -> None:
    position = start
    with writing(part, needed=file.size - start), part.open("r+b") as out:
        out.truncate(start)
        out.seek(start)
        # Pieces as they arrive: a fixed size would hold back, and lose, the last one of a cut transfer.
        for chunk in response.iter_bytes():
            position += len(chunk)
            if position > file.size:
                out.truncate(0)
                raise _Stopped(f"the server sent more than the announced {file.size:,} bytes")
            out.write(chunk)
            report(position)
        out.flush()
        os.fsync(out.fileno())
    if position < file.size:
        raise _Stopped("the server closed the connection early")


def http_error() -> type[Exception]:
    """The HTTP library's base error; huggingface_hub changed that library before, so it is asked."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")


def describe(error: Exception) -> str:
    """What a transport error means, in words."""
    kind = type(error).__name__
    known = {
        "ConnectTimeout": "the server did not answer in time",
        "ReadTimeout": "the server went silent",
        "RemoteProtocolError": "the server closed the connection early",
        "ReadError": "the connection was reset",
    }
    return known.get(kind) or shown(str(error) or kind)
