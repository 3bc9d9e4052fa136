"""The lines of files or of standard input, each of which is a text."""

import sys
from collections.abc import Sequence
from pathlib import Path

from minicpm.cli import standard_input
from minicpm.errors import BadInput

_STANDARD_INPUT = Path("-")


def read_lines(files: Sequence[Path], what: str) -> list[str]:
    """All lines of the files, one file after the other; without files, and for "-", of standard input.

    An empty line is an empty text, so that lines and results stay side by side. Raises BadInput for files
    that cannot be read, all at once, for bytes that are not UTF-8, and when there is no text in any line;
    `what` names the texts in its message.
    """
    if not files and standard_input.is_terminal():
        raise BadInput(
            f"There are no {what}. Name files with one in each line, or pipe lines into this command."
        )
    lines = [line for name, data in _contents(files or [_STANDARD_INPUT]) for line in _lines(name, data)]
    if not any(line.strip() for line in lines):
        where = ", ".join(map(str, files)) if files else "Standard input"
        raise BadInput(f"{where} is empty, so there are no {what}. Give one in each line.")
    return lines


def _contents(files: Sequence[Path]) -> list[tuple[str, bytes]]:
    """Name and bytes of every file; BadInput that names all that cannot be read."""
    found, problems = [], []
    for file in files:
        if file == _STANDARD_INPUT:
            found.append(("Standard input", b"" if sys.stdin is None else sys.stdin.buffer.read()))
            continue
        try:
            found.append((str(file), file.read_bytes()))
        except OSError as error:
            problems.append(f"{file} ({error.strerror or error})")
    if problems:
        raise BadInput(f"Cannot read {', '.join(problems)}. Correct the names, or leave them out.")
    return found


def _lines(name: str, data: bytes) -> list[str]:
    """The lines of UTF-8 text; only a line feed ends one, before which a carriage return is no part of it."""
    lines = standard_input.decoded(data, name).split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
