"""Suggests the published model that a misspelt name most likely means."""

import difflib

from minicpm.checkpoint.hub.names import HubName
from minicpm.models.published import published

_CLOSE = 0.75


def suggestion(name: HubName) -> str:
    """` (did you mean ...?)` for a name close to a published one, else nothing."""
    known = {repository.lower(): repository for row in published() for repository in row.repositories}
    close = difflib.get_close_matches(name.repo.lower(), known, n=1, cutoff=_CLOSE)
    if not close or known[close[0]] == name.repo:
        return ""
    return f" (did you mean {known[close[0]]}?)"
