"""The result of a verb on standard output."""

import json
from collections.abc import Iterable
from typing import Any


def print_json(document: Any) -> None:
    """One document on one line, which is the last line of the output."""
    print(json.dumps(document, ensure_ascii=False, default=str))


def print_lines(lines: Iterable[str]) -> None:
    """Lines for people."""
    for line in lines:
        print(line)
