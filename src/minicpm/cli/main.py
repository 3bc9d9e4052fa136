"""Where the program starts: light enough that Ctrl-C never meets a half-imported package."""

import os
import sys
from typing import NoReturn

REFUSED = 2
INTERRUPTED = 130
BROKEN_PIPE = 141


def main() -> NoReturn:
    """Runs the command line of this process and exits.

    Codes: 0 done, 2 refused with a sentence, 130 stopped by Ctrl-C, 141 the reader of the output went away,
    1 a mistake of the program.
    """
    try:
        _open_streams()
        from minicpm.cli.app import run
        from minicpm.cli.failures import explain_mistake

        sys.excepthook = explain_mistake
        code = run()
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        code = INTERRUPTED
    code = _delivered(code)
    if code == INTERRUPTED:
        # Everything is unwound; a second Ctrl-C must not meet the interpreter while it tears itself down.
        os._exit(code)
    sys.exit(code)


def _open_streams() -> None:
    """Gives a program that was started without output streams ones that lead nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))


def _delivered(code: int) -> int:
    """Delivers what is buffered; the exit code then, which is another one where that fails."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:
        # What is still in the buffer would be reported once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return code or BROKEN_PIPE
        print(f"Error: The output cannot be written: {error.strerror}.", file=sys.stderr)
        return code or REFUSED
    return code
