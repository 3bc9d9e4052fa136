"""Fills one virtual environment with the package and what it needs, by uv where it is found, else by pip."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

TAIL_LINES = 20


class StepFailed(RuntimeError):
    """A step of the set-up failed; the message names the command and holds its last lines."""


@dataclass(frozen=True)
class Needs:
    """What pyproject.toml asks for: the core and some extras."""

    requirements: tuple[str, ...]
    extras: tuple[str, ...]

    @classmethod
    def read(cls, pyproject: Path, *, asked: set[str], earlier: set[str]) -> Needs:
        """The core with the extras `asked` for, and those of `earlier` that pyproject.toml still has."""
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        optional = project["optional-dependencies"]
        unknown = sorted(asked - set(optional))
        if unknown:
            raise StepFailed(f"there is no extra named {', '.join(unknown)}; there are {', '.join(optional)}")
        extras = tuple(sorted(asked | (earlier & set(optional))))
        return cls(
            (*project["dependencies"], *(need for extra in extras for need in optional[extra])), extras
        )


class Installer:
    """The steps of a set-up, each of which can be repeated after an interruption."""

    def __init__(
        self, root: Path, venv: Path, *, say: Callable[[str], None], inherit: IO[str] | None = None
    ) -> None:
        """`inherit` is the held lock: a child keeps it, so one orphaned by a killed parent is waited for."""
        self.root = root
        self.venv = venv
        self.say = say
        self.uv = shutil.which("uv")
        windows = sys.platform == "win32"
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        self.python = str(venv / ("Scripts/python.exe" if windows else "bin/python"))
        self.packages = venv / ("Lib/site-packages" if windows else f"lib/{version}/site-packages")
        self.popen: dict[str, Any] = {"pass_fds": (inherit.fileno(),)} if inherit is not None else {}

    def make(self) -> None:
        """Makes the environment where there is no usable one, and gives it pip where pip is needed."""
        if not self._usable():
            self._make_anew()
        self._forget_half_installed()
        if not self.uv and not (self.packages / "pip").is_dir():
            self._run([self.python, "-m", "ensurepip", "--upgrade"])

    def _make_anew(self) -> None:
        """Makes an empty environment; one that could not be finished is not left behind."""
        self.say(f"making {self.venv} with Python {sys.version.split()[0]}")
        shutil.rmtree(self.venv, ignore_errors=True)
        base = getattr(sys, "_base_executable", None) or sys.executable
        maker = [self.uv, "venv", "--quiet", "--python", base] if self.uv else [base, "-m", "venv"]
        try:
            self._run([*maker, str(self.venv)])
        except StepFailed:
            shutil.rmtree(self.venv, ignore_errors=True)
            raise

    def dependencies(self, needs: tuple[str, ...]) -> None:
        """Installs the requirements `needs`, keeping a torch that is there."""
        kept = self._installed_torch()
        about = f"keeping torch {kept}" if kept else "torch included, which takes a minute or two"
        self.say(f"installing {len(needs)} requirements with {'uv' if self.uv else 'pip'} ({about})")
        self._install([*self._constraint(kept), *needs])

    def package(self, *, native: bool) -> None:
        """Installs the package itself, editable; `native` asks for its compiled part."""
        editable = ["--no-deps", "-e", str(self.root)]
        if not native:
            self.say("installing minicpm without its compiled part: there is no C++ compiler on the PATH")
            self._install(editable, MINICPM_NATIVE="0")
            return
        self.say("building minicpm with its compiled part")
        try:
            self._install(editable)
        except StepFailed as error:
            self.say(f"the compiled part cannot be built, so minicpm goes without it: {error}")
            self._install(editable, MINICPM_NATIVE="0")

    def _usable(self) -> bool:
        """Whether the environment's interpreter starts and is of this Python's version."""
        check = f"import sys; sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])})"
        try:
            done = subprocess.run([self.python, "-I", "-c", check], check=False, capture_output=True)
        except OSError:
            return False
        return done.returncode == 0

    def _forget_half_installed(self) -> None:
        """Removes the records of interrupted installations: RECORD is what an installer writes last."""
        for info in self.packages.glob("*.dist-info"):
            if not (info / "RECORD").exists():
                shutil.rmtree(info)

    def _installed_torch(self) -> str | None:
        """Version of the torch inside the environment, or None."""
        found = sorted(self.packages.glob("torch-*.dist-info"))
        return found[0].name.removeprefix("torch-").removesuffix(".dist-info") if found else None

    def _constraint(self, kept: str | None) -> list[str]:
        """Arguments that decide which torch is installed: the one that is there, CPU, or the newest."""
        if kept:
            pin = self.venv / "torch.constraint"
            pin.write_text(f"torch=={kept}\n", encoding="utf-8")
            return ["-c", str(pin)]
        if shutil.which("nvidia-smi"):
            return []
        return ["-c", str(self.root / "constraints" / "cpu.txt")]

    def _install(self, arguments: list[str], **variables: str) -> None:
        """Runs the installer with `arguments`."""
        if self.uv:
            command = [self.uv, "pip", "install", "--quiet", "--python", self.python]
        else:
            # Compiling every file of torch costs more than compiling the few that are imported later.
            quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-compile"]
            command = [self.python, "-m", "pip", "install", *quiet]
        self._run([*command, *arguments], **variables)

    def _run(self, command: list[str], **variables: str) -> None:
        """Runs a command to its end without a word; raises StepFailed with its last lines."""
        with subprocess.Popen(
            command,
            cwd=self.root,
            env=installer_environment(os.environ) | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            **self.popen,
        ) as process:
            try:
                output, _ = process.communicate()
            except BaseException:
                process.terminate()
                raise
        if process.returncode != 0:
            raise StepFailed(failure(command, process.returncode, output))


def installer_environment(variables: os._Environ[str] | dict[str, str]) -> dict[str, str]:
    """`variables`, with the package sources that pip was told of told to uv as well."""
    told = dict(variables)
    for pip, uv in (
        ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
        ("PIP_EXTRA_INDEX_URL", "UV_INDEX"),
        ("PIP_CERT", "SSL_CERT_FILE"),
    ):
        if pip in told:
            told.setdefault(uv, told[pip])
    if "PIP_FIND_LINKS" in told:  # pip separates by blanks, uv by commas
        told.setdefault("UV_FIND_LINKS", ",".join(told["PIP_FIND_LINKS"].split()))
    return told


def failure(command: list[str], code: int, output: str) -> str:
    """What failed and the last lines it printed."""
    lines = "".join(f"\n    {line}" for line in output.splitlines()[-TAIL_LINES:])
    return (
        f"this command ended with exit code {code}: {shlex.join(command)}{lines or ' (it printed nothing)'}"
    )
