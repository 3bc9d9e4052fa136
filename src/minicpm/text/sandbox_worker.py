"""The child process of the template sandbox: renders what it is asked to, inside hard limits.

It is started as a script with its directory and the parent's import path on argv, reads and writes frames of
a 4-byte length and JSON, and dies with its parent or at the first excess. It imports nothing of the package
but the template environment beside it.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from importlib import import_module
from typing import Any, BinaryIO


def main() -> None:
    """Serves frames until standard input ends."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    settings = read_frame(source)
    sys.path[:] = settings["path"]
    # Found by path: under its package name it would import the whole package.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    jinja_template = import_module("jinja_template")

    sys.path.pop(0)
    confine(settings["memory"])
    templates: dict[str, Any] = {}
    while (request := read_frame(source)) is not None:
        arm(request["seconds"])
        answer = respond(jinja_template, templates, request)
        arm(0)
        write_frame(sink, answer)


def respond(jinja: Any, templates: dict[str, Any], request: dict[str, Any]) -> dict[str, str]:
    """{"text": ...} or {"error": kind, "detail": ...}; a template may fail in any way at all."""
    try:
        source = request["template"]
        if source not in templates:
            templates.clear()
            templates[source] = jinja.compile_template(source)
        return {"text": jinja.render(templates[source], request["context"], request["characters"])}
    except jinja.OutputTooLong as error:
        return {"error": "output", "detail": str(error)}
    except (MemoryError, OverflowError):
        return {"error": "memory", "detail": ""}
    except Exception as error:  # noqa: BLE001 - the template is foreign code
        return {"error": "template", "detail": f"{type(error).__name__}: {error}"[:500]}


def confine(memory: int) -> None:
    """Caps the address space at what is in use now plus `memory` bytes; no files, no new processes."""
    try:
        import resource
    except ImportError:  # no such limits on this system; time and output stay limited
        return
    limits = [(resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)]
    used = address_space()
    if used is not None:
        limits.append((resource.RLIMIT_AS, used + memory))
    for limit, value in limits:
        resource.setrlimit(limit, (value, value))


def address_space() -> int | None:
    """Bytes of address space in use, None where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def arm(seconds: float) -> None:
    """The default action of the alarm ends the process, also in the middle of one long C call."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def read_frame(source: BinaryIO) -> Any:
    """The next frame's value, None at the end of input."""
    header = source.read(4)
    if len(header) < 4:
        return None
    (size,) = struct.unpack("<I", header)
    return json.loads(source.read(size))


def write_frame(sink: BinaryIO, value: Any) -> None:
    """Writes one value and flushes."""
    data = json.dumps(value).encode()
    sink.write(struct.pack("<I", len(data)) + data)
    sink.flush()


if __name__ == "__main__":
    main()
