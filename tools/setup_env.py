"""Makes or refreshes the project's virtual environment, and does nothing when it is fresh.

    python3 tools/setup_env.py [--venv FOLDER] [EXTRA ...]

Needs the standard library only. An environment is fresh when its stamp, written last, names the same sources,
Python and folder, and holds the extras asked for. What it says goes to stderr; nothing goes to stdout.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 -- read by whatever Python the machine has
    sys.exit(
        f"minicpm needs Python 3.11 or newer, and {sys.executable} is {sys.version.split()[0]}. "
        "Install a newer one, or name it: make PYTHON=python3.12 chat"
    )

import argparse
import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows; there two set-ups at once are not kept apart
    fcntl = None  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parent.parent
STAMP = "minicpm.stamp"


def say(text: str) -> None:
    """One line of progress."""
    print(f"setup: {text}", file=sys.stderr, flush=True)


def python_of(venv: Path) -> Path:
    """The interpreter inside the environment."""
    return venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def source_files(root: Path) -> list[Path]:
    """Files whose change makes an environment stale."""
    native = sorted(path for path in (root / "native").rglob("*") if path.is_file())
    tools = [root / "tools" / "setup_env.py", root / "tools" / "env_installer.py"]
    return [root / "pyproject.toml", root / "constraints" / "cpu.txt", *tools, *native]


def fingerprint(root: Path) -> str:
    """Hash of the sources, the Python and the folder, since an environment is bound to all three."""
    digest = hashlib.sha256(f"{root}\0{sys.version_info[:2]}\0{sys.platform}".encode())
    for path in source_files(root):
        digest.update(f"\0{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def compiler_state() -> str:
    """Whether a C++ compiler may be there; on Windows CMake finds it where PATH does not."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    found = sys.platform == "win32" or any(shutil.which(name) for name in names if name)
    return "compiler" if found else "no-compiler"


def read_stamp(venv: Path) -> list[str]:
    """[fingerprint, compiler state, extras...] of the last finished set-up, or nothing."""
    try:
        return (venv / STAMP).read_text(encoding="utf-8").split()
    except OSError:
        return []


def write_stamp(venv: Path, words: list[str]) -> None:
    """Marks the environment as finished."""
    beside = venv / f"{STAMP}.new"
    beside.write_text("\n".join(words) + "\n", encoding="utf-8")
    beside.replace(venv / STAMP)


def is_fresh(venv: Path, mark: str, extras: set[str]) -> bool:
    """Whether a finished set-up covers what is asked; a compiler that came later makes it stale."""
    stamp = read_stamp(venv)
    if len(stamp) < 2 or stamp[0] != mark or not extras <= set(stamp[2:]):
        return False
    return python_of(venv).exists() and (stamp[1] == "compiler" or compiler_state() == "no-compiler")


def take_lock(venv: Path) -> IO[str] | None:
    """Keeps other set-ups of the same environment out until the returned file is closed."""
    if fcntl is None:
        return None
    venv.parent.mkdir(parents=True, exist_ok=True)
    lock = open(f"{venv}.lock", "a", encoding="utf-8")  # noqa: SIM115 -- held until the caller is done
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for the set-up that is already under way")
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def refresh(root: Path, venv: Path, mark: str, extras: set[str], lock: IO[str] | None) -> None:
    """Fills the environment; extras that an earlier set-up installed stay."""
    from env_installer import Installer, Needs

    started = time.monotonic()
    compiler = compiler_state()
    needs = Needs.read(root / "pyproject.toml", asked=extras, earlier=set(read_stamp(venv)[2:]))
    (venv / STAMP).unlink(missing_ok=True)
    installer = Installer(root, venv, say=say, inherit=lock)
    installer.make()
    installer.dependencies(needs.requirements)
    installer.package(native=compiler == "compiler")
    write_stamp(venv, [mark, compiler, *needs.extras])
    say(f"ready after {time.monotonic() - started:.0f} s")


def ensure(root: Path, venv: Path, extras: set[str]) -> None:
    """Leaves a fresh environment behind, or raises what stopped it."""
    mark = fingerprint(root)
    if is_fresh(venv, mark, extras):
        return
    lock = take_lock(venv)
    try:
        if not is_fresh(venv, mark, extras):
            refresh(root, venv, mark, extras, lock)
    finally:
        if lock is not None:
            lock.close()


def main() -> int:
    """Exit code 0 when the environment is ready, 1 when a step failed, 130 when interrupted."""
    parser = argparse.ArgumentParser(description="Make or refresh the project's virtual environment.")
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help="extra to install, such as dev")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="folder of the environment")
    options = parser.parse_args()
    try:
        ensure(ROOT, options.venv.absolute(), set(options.extras))
    except (RuntimeError, OSError) as error:
        say(f"failed: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; run the same command again to go on")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
