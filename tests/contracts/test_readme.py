"""The examples of the README run as written."""

import doctest
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
NANO = ROOT / "src/minicpm/assets/nano/config.json"

# A fenced block; `<!-- not run: REASON -->` on the line before it says why a machine cannot run it.
FENCE = re.compile(r"^```(\w+)$")
NOT_RUN = re.compile(r"^<!-- not run: (.+) -->$")
SET_UP = ("make", "git", "pip", "cd", "python3")

needs_nano = pytest.mark.skipif(not NANO.exists(), reason="the model inside the package is not there yet")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page, the line its text starts at, and why it is not run, if it is not."""

    language: str
    line: int
    text: str
    not_run: str | None


def blocks(page: Path, language: str) -> list[Block]:
    """The fenced blocks of a page in one language."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines() if page.exists() else []
    start, opening = None, None
    for number, line in enumerate(lines, 1):
        if start is None and (opening := FENCE.match(line)):
            start = number
        elif start is not None and line == "```":
            reason = NOT_RUN.match(lines[start - 2]) if start > 1 else None
            text = "\n".join(lines[start : number - 1]) + "\n"
            found.append(Block(opening[1], start + 1, text, reason[1] if reason else None))
            start = None
    return [block for block in found if block.language == language]


def commands(block: Block) -> list[tuple[str, str]]:
    """(command, the output written below it) of every `$ ` line of a console block."""
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
    return [(command.strip(), output) for command, _, output in (part.partition("\n") for part in parts)]


CONSOLE = [
    pytest.param(command, output, id=f"line-{block.line}-{command[:40]}")
    for block in blocks(README, "console")
    if block.not_run is None
    for command, output in commands(block)
    if not command.startswith(SET_UP)
]


@pytest.fixture
def programs(tmp_path) -> dict[str, str]:
    """Variables under which a shell finds `minicpm` as these sources' program."""
    program = tmp_path / "bin" / "minicpm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m minicpm "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT / "src"), "PYTHONUTF8": "1", "COLUMNS": "100"}


def run(command: list[str], programs: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command without a terminal in `folder`."""
    return subprocess.run(
        command,
        cwd=folder,
        env=programs,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@needs_nano
def test_the_python_of_the_readme_runs(programs, tmp_path):
    source = "".join(block.text for block in blocks(README, "python") if block.not_run is None)
    done = run([sys.executable, "-W", "error", "-c", source], programs, tmp_path)
    assert done.returncode == 0, done.stderr


@needs_nano
@pytest.mark.parametrize(("command", "output"), CONSOLE)
def test_a_command_of_the_readme_prints_what_the_readme_says(command, output, programs, tmp_path):
    # `make -s chat` is `minicpm chat` in an environment it makes first; here the environment is this one.
    done = run(["sh", "-c", command.replace("make -s chat", "minicpm chat")], programs, tmp_path)
    assert done.returncode == 0, done.stderr
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    same = doctest.OutputChecker().check_output(output, done.stdout, flags)
    assert not output.strip() or same, f"{command}\nprinted:\n{done.stdout}"


def test_every_make_target_that_the_readme_names_exists():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"\bmake (?:-s )?([a-z]+)\b(?=[`\s])", "\n".join(fenced_commands())))
    assert named <= targets


def fenced_commands() -> list[str]:
    """Every command line of the README's console blocks, run here or not."""
    return [f"{command} " for block in blocks(README, "console") for command, _ in commands(block)]
