"""A small checkpoint, a cache of its own, and a loopback server that imitates the hub, faults included."""

import hashlib
import json
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from minicpm.checkpoint.hub.transfer import Patience

COMMIT = "a" * 40
HASTE = Patience(connect_s=2.0, stall_s=0.3, retries=2, pause_s=0.01)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test gets an empty cache of its own, and nothing of the user's hub settings."""
    home = tmp_path / "cache"
    monkeypatch.setenv("MINICPM_HOME", str(home))
    for name in (
        "HF_HUB_OFFLINE",
        "HF_ENDPOINT",
        "HF_TOKEN",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "http_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return home


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A complete toy checkpoint, sharded."""
    from minicpm.testing import tiny_checkpoint

    return tiny_checkpoint("minicpm4-0.5b", tmp_path / "tiny")


@dataclass
class Repo:
    """Files of one pretended repository at one commit."""

    files: dict[str, bytes]
    commit: str = COMMIT
    plain: set[str] = field(default_factory=set)

    def siblings(self) -> list[dict[str, Any]]:
        return [self._sibling(name, content) for name, content in self.files.items()]

    def _sibling(self, name: str, content: bytes) -> dict[str, Any]:
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git}
        if name.endswith(".safetensors"):
            sha = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": sha, "size": len(content), "pointerSize": 130}
        return entry


Fault = Callable[["Handler", bytes, int], None]


@dataclass
class FakeHub:
    """What the server knows, what it shall break, and what it was asked."""

    repos: dict[str, Repo] = field(default_factory=dict)
    refs: dict[tuple[str, str], str] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    listing_status: list[tuple[int, str]] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    url: str = ""

    def add(self, name: str, files: dict[str, bytes], commit: str = COMMIT) -> Repo:
        self.repos[name] = Repo(files, commit)
        self.refs[name, "main"] = self.refs[name, commit] = commit
        return self.repos[name]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.hub.requests.append((self.path, self.headers.get("Range", "")))
        self.hub.headers.append({key.lower(): value for key, value in self.headers.items()})
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            self._listing("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
        elif len(parts) == 5 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[4])
        else:
            self.answer(404)

    def _listing(self, name: str, revision: str) -> None:
        if self.hub.listing_status:
            status, code = self.hub.listing_status.pop(0)
            self.answer(status, headers={"X-Error-Code": code} if code else {})
        elif name not in self.hub.repos:
            self.answer(404, headers={"X-Error-Code": "RepoNotFound"})
        elif (name, revision) not in self.hub.refs:
            self.answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        else:
            repo = self.hub.repos[name]
            body = {"id": name, "sha": repo.commit, "siblings": repo.siblings()}
            self.answer(200, json.dumps(body).encode())

    def _file(self, name: str, file: str) -> None:
        content = self.hub.repos[name].files[file]
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        faults = self.hub.faults[file]
        if faults:
            fault = faults[0] if getattr(faults[0], "always", False) else faults.pop(0)
            fault(self, content, start)
        else:
            self.give(content, start)

    def give(self, content: bytes, start: int, *, body: bytes | None = None) -> None:
        """The honest answer, or one whose body differs."""
        headers = {"ETag": '"x"'}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.answer(206 if start else 200, content[start:] if body is None else body, headers)

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.start(status, len(body), headers or {})
        self.send(body)

    def start(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def send(self, body: bytes) -> None:
        self.hub.sent[self.path.rpartition("/")[2]] += len(body)
        try:
            self.wfile.write(body)
            self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


def _begin(handler: Handler, content: bytes, start: int) -> None:
    """Announce the whole rest and send half of it."""
    rest = content[start:]
    extra = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
    handler.start(206 if start else 200, len(rest), extra)
    handler.send(rest[: max(len(rest) // 2, 1)])


def truncate(handler: Handler, content: bytes, start: int) -> None:
    _begin(handler, content, start)
    handler.close_connection = True


def reset(handler: Handler, content: bytes, start: int) -> None:
    _begin(handler, content, start)
    time.sleep(0.05)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


def stall(handler: Handler, content: bytes, start: int) -> None:
    _begin(handler, content, start)
    time.sleep(0.6)
    handler.close_connection = True


def too_long(handler: Handler, content: bytes, start: int) -> None:
    handler.answer(200, content + b"more")


def too_short(handler: Handler, content: bytes, start: int) -> None:
    handler.answer(200, content[:-5])


def endless(handler: Handler, content: bytes, start: int) -> None:
    """No length announced, and more bytes than there are."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.send(content + b"x" * 1000)
    handler.close_connection = True


def flip(handler: Handler, content: bytes, start: int) -> None:
    changed = bytearray(content[start:])
    changed[len(changed) // 2] ^= 1
    handler.give(content, start, body=bytes(changed))


def ignore_range(handler: Handler, content: bytes, start: int) -> None:
    handler.give(content, 0)


def wrong_range(handler: Handler, content: bytes, start: int) -> None:
    handler.answer(206, content[1:], {"Content-Range": f"bytes 1-{len(content) - 1}/{len(content)}"})


def other_version(handler: Handler, content: bytes, start: int) -> None:
    """The object behind the address changed: another ETag, other bytes of the same length."""
    body = bytes(byte ^ 0xFF for byte in content[start:])
    extra = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
    handler.answer(206 if start else 200, body, {"ETag": '"y"', **extra})


def status(code: int) -> Fault:
    def fault(handler: Handler, content: bytes, start: int) -> None:
        handler.answer(code, b"no")

    return fault


def always(fault: Fault) -> Fault:
    def repeated(handler: Handler, content: bytes, start: int) -> None:
        fault(handler, content, start)

    repeated.always = True  # type: ignore[attr-defined]
    return repeated


FAULTS = {
    fault.__name__: fault
    for fault in (
        truncate,
        reset,
        stall,
        too_long,
        too_short,
        endless,
        flip,
        ignore_range,
        wrong_range,
        other_version,
    )
}


@pytest.fixture
def faults() -> dict[str, Any]:
    """The ways a server can fail, by name, with `status(code)` and `always(fault)`."""
    return {**FAULTS, "status": status, "always": always}


@pytest.fixture
def haste() -> Patience:
    """Short waits, so that a failing server costs milliseconds."""
    return HASTE


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A running fake hub; HF_ENDPOINT points at it."""
    state = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": state}))
    server.daemon_threads = True
    server.block_on_close = False
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", state.url)
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def model_files() -> dict[str, bytes]:
    """Files of a repository as hubs have them, code and pickles among them."""
    return {
        "config.json": b'{"model_type": "minicpm"}',
        "tokenizer.json": b"{}",
        "README.md": b"# model\n",
        "model.safetensors": bytes(range(256)) * 4096,
        "modeling_minicpm.py": b"raise SystemExit",
        "pytorch_model.bin": b"pickle",
        "nested/model.safetensors": b"x",
    }
