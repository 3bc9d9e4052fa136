"""A message from standard input."""

import sys

from minicpm.errors import BadInput


def is_terminal() -> bool:
    """True when a person types there."""
    return sys.stdin is not None and sys.stdin.isatty()


def read_message() -> str:
    """All of standard input as one message, without line ends at its end; BadInput if empty or not UTF-8."""
    data = b"" if sys.stdin is None else sys.stdin.buffer.read()
    try:
        text = data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"Standard input is not UTF-8 text: byte {error.start + 1:,} of {len(data):,} is "
            f"0x{data[error.start]:02x}. Convert it first, for example with `iconv -t utf-8`."
        ) from error
    if not text.strip():
        raise BadInput("Standard input is empty, so there is no message to answer. Pipe some text in.")
    return text
