"""A message from standard input."""

import sys

from minicpm.errors import BadInput


def is_terminal() -> bool:
    """True when a person types there."""
    return sys.stdin is not None and sys.stdin.isatty()


def read_message() -> str:
    """All of standard input as one message, without line ends at its end; BadInput if empty or not UTF-8."""
    data = b"" if sys.stdin is None else sys.stdin.buffer.read()
    text = decoded(data, "Standard input").rstrip("\r\n")
    if not text.strip():
        raise BadInput("Standard input is empty, so there is no message to answer. Pipe some text in.")
    return text


def decoded(data: bytes, name: str) -> str:
    """The UTF-8 text in bytes, without a byte order mark; BadInput, which names its source, if it is none."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{name} is not UTF-8 text: byte {error.start + 1:,} of {len(data):,} is "
            f"0x{data[error.start]:02x}. Convert it first, for example with `iconv -t utf-8`."
        ) from error
