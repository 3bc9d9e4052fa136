"""Where the program starts: light enough that Ctrl-C never meets a half-imported package."""

import os
import sys
from typing import NoReturn

INTERRUPTED = 130
BROKEN_PIPE = 141


def main() -> NoReturn:
    """Runs the command line of this process and exits.

    Codes: 0 done, 2 refused with a sentence, 130 stopped by Ctrl-C, 141 the reader of the output went away,
    1 a mistake of the program.
    """
    try:
        from minicpm.cli.app import run
        from minicpm.cli.failures import explain_mistake

        sys.excepthook = explain_mistake
        _exit(run())
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        _exit(INTERRUPTED)


def _exit(code: int) -> NoReturn:
    """Leaves after the output was delivered, or quietly when nobody reads it any more."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is still in the buffer would be reported as an error when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or BROKEN_PIPE
    sys.exit(code)
