"""The program, in this process and in one of its own, and what it works on."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "src"


@dataclass(frozen=True)
class Outcome:
    """How a run of the program ended, and what it wrote."""

    code: int
    out: str
    err: str

    def refused(self, *parts: str) -> "Outcome":
        """Checks that it was refused with a sentence or three that hold `parts`, and nothing else."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert "Traceback" not in self.err
        assert self.out == ""
        for part in parts:
            assert part in self.err, self.err
        lines = self.err.strip().splitlines()
        assert lines[-1].endswith((".", "?", ")")), self.err
        assert sum(line.startswith("Error: ") for line in lines) == 1, self.err
        return self


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a home, a cache and a history of its own, and none of the user's settings."""
    for name in list(os.environ):
        if name.startswith(("MINICPM_", "HF_", "_MINICPM", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MINICPM_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(SOURCES))
    (tmp_path / "home").mkdir()


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a command line in this process, which is quick; standard input is no terminal."""
    from minicpm.cli.app import run

    def call(*arguments: str, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        before = signal.getsignal(signal.SIGINT)
        code = run(list(arguments))
        assert signal.getsignal(signal.SIGINT) is before, "a verb gives Ctrl-C its meaning back"
        sys.stdout.flush()
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


class Running:
    """The program in a process of its own."""

    def __init__(
        self, *arguments: str, program: tuple[str, ...] = ("-m", "minicpm"), **options: object
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **options,
        )

    def finish(self, stdin: bytes = b"") -> Outcome:
        """Gives it its input and waits for its end."""
        out, err = self.process.communicate(stdin, timeout=60)
        return Outcome(self.process.returncode, out.decode(), err.decode())

    def interrupt(self) -> None:
        """Presses Ctrl-C."""
        self.process.send_signal(signal.SIGINT)


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Starts the program in a process of its own; what still runs at the end of the test is ended."""
    started: list[Running] = []

    def call(*arguments: str, **options: object) -> Running:
        started.append(Running(*arguments, **options))
        return started[-1]

    yield call
    for running in started:
        running.process.kill()
        running.process.communicate()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy model with a context of 32,768 tokens; nothing in it may be changed."""
    from minicpm.testing import tiny_checkpoint

    return tiny_checkpoint("minicpm4-0.5b", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def broken(tiny: Path, tmp_path: Path) -> Callable[[str, bytes], str]:
    """A copy of the toy model in which one file has other content."""
    import shutil

    def make(file: str, content: bytes) -> str:
        folder = tmp_path / "broken"
        shutil.copytree(tiny, folder)
        (folder / file).write_bytes(content)
        return str(folder)

    return make


class Hub:
    """A loopback hub with one repository: a toy model."""

    name = "toys/Tiny"

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.pause = threading.Event()
        """Set while files may be sent."""
        self.pause.set()
        self.asked = threading.Event()
        """Set once a weight file was asked for."""

    def answer(self, path: str) -> bytes | None:
        """What a GET of this path gives."""
        if path.startswith(f"/api/models/{self.name}"):
            return json.dumps({"id": self.name, "sha": "a" * 40, "siblings": self._siblings()}).encode()
        prefix = f"/{self.name}/resolve/{'a' * 40}/"
        return self.files.get(path.removeprefix(prefix)) if path.startswith(prefix) else None

    def _siblings(self) -> list[dict[str, object]]:
        return [
            {
                "rfilename": name,
                "size": len(content),
                "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
            }
            for name, content in self.files.items()
        ]


@pytest.fixture
def hub(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running hub, to which HF_ENDPOINT points."""
    served = Hub(tiny)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Nothing."""

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            content = served.answer(path)
            if path.endswith(".safetensors"):
                served.asked.set()
                served.pause.wait(30)
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    yield served
    served.pause.set()
    server.shutdown()
    thread.join()
    server.server_close()
