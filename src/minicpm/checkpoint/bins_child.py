"""The child process of `convert`: opens untrusted .bin files with all but reading them switched off."""

import ctypes
import json
import os
import pickle
import signal
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_FORBIDDEN = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.kill",
    "os.remove",
    "os.rename",
    "os.chmod",
    "os.symlink",
    "os.link",
    "shutil.",
    "ctypes.dlopen",
    "pty.",
    "webbrowser.",
)


def main() -> None:
    """Read the order from stdin, convert file by file, and say every step as a JSON line on stdout."""
    order = json.load(sys.stdin)
    die_with_parent()
    leave_network()
    import torch  # noqa: F401  imported before the guard, which forbids loading libraries

    import minicpm.checkpoint.writing  # noqa: F401

    guard(order["folder"])
    total = sum(os.path.getsize(source) for source, _ in order["jobs"])
    done = 0
    for source, target in order["jobs"]:
        say(done=done, total=total, label=os.path.basename(source))
        if not convert(source, target, _WRITERS[order["content"]]):
            return
        done += os.path.getsize(source)
    say(finished=True)


def say(**message: Any) -> None:
    """One JSON line for the parent."""
    print(json.dumps(message), flush=True)  # noqa: T201


def die_with_parent() -> None:
    """Ask Linux to end this process with its parent, however that ends; elsewhere a closed pipe ends it."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def leave_network() -> None:
    """Enter an empty network namespace where the system allows it; the guard refuses sockets everywhere."""
    unshare = getattr(ctypes.CDLL(None), "unshare", None) if os.name == "posix" else None
    if unshare is not None and unshare(_CLONE_NEWNET) != 0:
        unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def guard(folder: str) -> None:
    """From here on, refuse sockets, processes, and writes outside `folder`, for the rest of this process."""
    allowed = os.path.realpath(folder) + os.sep

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            raise PermissionError(f"{event} is not allowed while converting")
        if event == "open" and _writes(arguments) and not _within(arguments[0], allowed):
            raise PermissionError(f"writing {arguments[0]!r} is not allowed while converting")

    sys.addaudithook(hook)


def _writes(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))


def _within(path: Any, allowed: str) -> bool:
    return isinstance(path, str | bytes) and os.path.realpath(os.fsdecode(path)).startswith(allowed)


def write_dense(content: Any, source: str, target: str) -> bool:
    """Write a dict of dense tensors; False, after saying why, when it is anything else."""
    from minicpm.checkpoint.writing import spec_of, write_shard

    others = (
        ["the whole, which is no dict"] if not isinstance(content, dict) else list(not_dense(content.items()))
    )
    if others:
        say(file=source, unsafe="these entries are not dense tensors: " + ", ".join(others[:20]))
        return False
    specs = [spec_of(name, tensor) for name, tensor in content.items()]
    try:
        write_shard(Path(target), specs, content.items())
    except OSError as error:
        say(file=target, errno=error.errno)
        return False
    return True


def write_ids(content: Any, source: str, target: str) -> bool:
    """Write a list of token ids, or a tensor of them, as one; False, after saying why, for anything else."""
    import torch

    listed = isinstance(content, list) and all(type(item) is int and 0 <= item < 2**31 for item in content)
    tensor = torch.tensor(content, dtype=torch.int64) if listed else content
    plain = type(tensor) is torch.Tensor and tensor.layout == torch.strided and tensor.ndim == 1
    if not plain or tensor.dtype not in {torch.int64, torch.int32, torch.int16}:
        say(file=source, unsafe="it holds something other than one list of token ids")
        return False
    return write_dense({"ids": tensor}, source, target)


Writer = Callable[[Any, str, str], bool]
_WRITERS: dict[str, Writer] = {"weights": write_dense, "ids": write_ids}


def convert(source: str, target: str, write: Writer = write_dense) -> bool:
    """Write one file's content to `target`; False, after saying why, when it holds anything else."""
    import torch

    try:
        content = torch.load(source, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(source))
    except (pickle.UnpicklingError, PermissionError) as error:
        say(file=source, unsafe=first_line(error))
        return False
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        say(file=source, broken=first_line(error))
        return False
    return write(content, source, target)


def not_dense(items: Iterable[tuple[Any, Any]]) -> Iterable[str]:
    """Names of entries that are not plain, strided tensors of a format safetensors has."""
    import torch

    from minicpm.checkpoint.reading import NAMES

    for name, value in items:
        plain = type(value) in {torch.Tensor, torch.nn.Parameter}
        if (
            not isinstance(name, str)
            or not plain
            or value.layout != torch.strided
            or value.dtype not in NAMES
        ):
            yield repr(name)


def first_line(error: BaseException) -> str:
    """The first sentence of a library's message, which often goes on with advice we do not follow."""
    return str(error).strip().split("\n")[0][:300] or type(error).__name__


if __name__ == "__main__":
    main()
