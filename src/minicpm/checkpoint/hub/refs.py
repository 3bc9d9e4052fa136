"""Remembers which commit a revision meant when it was last pulled."""

import json
from pathlib import Path

from minicpm.checkpoint.atomic import write_file
from minicpm.checkpoint.hub.names import is_commit

NAME = "refs.json"


def read_refs(folder: Path) -> dict[str, str]:
    """Revision to commit, for one repository's folder; empty when there is none or it is damaged."""
    try:
        value = json.loads((folder / NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    pairs = value.items() if isinstance(value, dict) else ()
    return {revision: commit for revision, commit in pairs if is_commit(commit)}


def remember(folder: Path, revision: str, commit: str) -> None:
    """Record that `revision` means `commit`; the caller holds the repository's lock."""
    refs = read_refs(folder)
    if refs.get(revision) != commit:
        write_file(folder / NAME, json.dumps({**refs, revision: commit}, indent=1, sort_keys=True).encode())
