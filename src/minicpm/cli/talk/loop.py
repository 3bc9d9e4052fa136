"""Reads lines until the person leaves."""

from minicpm.cli.talk.chat import Chat, Reader
from minicpm.cli.talk.commands import Leave, is_command, run_command


def talk(chat: Chat, reader: Reader) -> None:
    """Holds a chat: questions are answered, commands done; Ctrl-D, /exit or Ctrl-C twice in a row ends it."""
    warned = False
    while True:
        try:
            line = reader.read()
        except EOFError:
            return
        except KeyboardInterrupt:
            if warned:
                return
            warned = True
            chat.screen.note("Ctrl-C once more, Ctrl-D or /exit leaves.")
            continue
        warned = False
        try:
            _do(chat, line)
        except Leave:
            return


def _do(chat: Chat, line: str) -> None:
    if is_command(line):
        run_command(chat, line)
    elif line.strip():
        chat.ask(line)
