"""Renders a checkpoint's own chat template in a child process with limits on time, output and memory."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from minicpm.errors import TemplateError

_WORKER = Path(__file__).with_name("sandbox_worker.py")
_ALARM = 14  # SIGALRM, which not every system names


@dataclass(frozen=True, slots=True)
class Limits:
    """`seconds` of wall time per rendering, `characters` of output, `memory` bytes on top of Python's own."""

    seconds: float = 2.0
    characters: int = 4 << 20
    memory: int = 256 << 20


class Sandbox:
    """One worker process, started when first needed, reused between renderings, killed on any excess.

    Safe to use from several threads; renderings take turns.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def render(self, template: str, context: dict[str, Any], *, characters: int | None = None) -> str:
        """The rendered text; raises TemplateError where the template fails or exceeds a limit."""
        limit = characters or self._limits.characters
        request = {"template": template, "context": context, "characters": limit}
        frame = json.dumps(request | {"seconds": self._limits.seconds}).encode()
        with self._lock:
            answer = self._ask(frame)
        if "text" in answer:
            return str(answer["text"])
        raise self._failure(answer["error"], answer["detail"], limit)

    def close(self) -> None:
        """Ends the worker; a later rendering starts another."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def __del__(self) -> None:
        """The worker also ends by itself when its input closes."""
        self.close()

    def _ask(self, frame: bytes) -> dict[str, Any]:
        process = self._started()
        late = threading.Event()
        # The worker's own alarm covers the rendering; this one also the transfer, and systems without alarms.
        seconds = self._limits.seconds + 1.0 + len(frame) / 2e7
        timer = threading.Timer(seconds, _end, (process, late))
        timer.start()
        try:
            return _exchange(process, frame)
        except (OSError, EOFError):
            code = process.wait()
            self.close()
            alarmed = late.is_set() or code == -_ALARM
            return {"error": "time" if alarmed else "died", "detail": str(code)}
        except BaseException:
            # Half an exchange leaves the pipes out of step.
            self.close()
            raise
        finally:
            timer.cancel()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = _spawn(self._limits.memory)
        return self._process

    def _failure(self, kind: str, detail: str, characters: int) -> TemplateError:
        limits = self._limits
        what = {
            "time": f"took longer than {limits.seconds:g} seconds",
            "output": f"wrote more than {characters:,} characters",
            "memory": f"needed more than {limits.memory >> 20} MiB of memory",
            "died": f"ended its process (code {detail})",
            "template": f"failed: {detail}",
        }[kind]
        return TemplateError(
            f"The checkpoint's chat template {what}. "
            "Use a built-in template, or a checkpoint whose template works."
        )


def _spawn(memory: int) -> subprocess.Popen[bytes]:
    """A worker without the parent's environment, its first frame already sent."""
    settings = json.dumps({"path": sys.path, "memory": memory}).encode()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            start_new_session=True,
        )
    except OSError as error:
        raise TemplateError(
            "The checkpoint's chat template needs a process of its own, and none can be started: "
            f"{error.strerror}. Free some processes or memory."
        ) from error
    _send(process, settings)
    return process


def _end(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    process.kill()


def _exchange(process: subprocess.Popen[bytes], frame: bytes) -> dict[str, Any]:
    assert process.stdout is not None, "the worker has pipes"
    _send(process, frame)
    (size,) = struct.unpack("<I", _read(process.stdout, 4))
    answer: dict[str, Any] = json.loads(_read(process.stdout, size))
    return answer


def _send(process: subprocess.Popen[bytes], frame: bytes) -> None:
    assert process.stdin is not None, "the worker has pipes"
    process.stdin.write(struct.pack("<I", len(frame)) + frame)
    process.stdin.flush()


def _read(source: IO[bytes], size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise EOFError("the worker closed its output")
    return data
