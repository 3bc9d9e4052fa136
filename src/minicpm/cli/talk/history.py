"""Where the lines typed in earlier chats are kept."""

import os
from pathlib import Path


def history_file() -> Path | None:
    """$XDG_STATE_HOME/minicpm/history, else the one under ~/.local/state; None where nothing can be kept.

    Folder and file are made when they are missing, for their owner only.
    """
    state = os.environ.get("XDG_STATE_HOME")
    if not state or not os.path.isabs(state):
        home = os.path.expanduser("~")
        if not os.path.isabs(home):
            return None
        state = os.path.join(home, ".local", "state")
    file = Path(state) / "minicpm" / "history"
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError:
        return None
    return file
