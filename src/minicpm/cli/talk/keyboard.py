"""Reads messages from a terminal: history, several lines, completion of commands."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output
from prompt_toolkit.styles import Style

from minicpm.cli.talk.commands import COMMANDS
from minicpm.cli.talk.settings import known

_STYLE = Style.from_dict({"prompt": "bold ansicyan", "more": "ansibrightblack"})


class Keyboard:
    """Messages as a person types them; `history` is the file of earlier ones, None keeps them in memory."""

    def __init__(self, history: Path | None, **session: Any) -> None:
        """`session` takes prompt_toolkit's options, such as input and output."""
        session.setdefault("output", create_output(always_prefer_tty=True))
        self._session: PromptSession[str] = PromptSession(
            history=_open(history),
            completer=CommandCompleter(),
            complete_while_typing=False,
            key_bindings=_keys(),
            multiline=True,
            prompt_continuation=lambda width, line, soft: [("class:more", "… ".rjust(width))],
            style=_STYLE,
            **session,
        )

    def read(self) -> str:
        """The next message without blanks at its end; EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C."""
        return self._session.prompt(FormattedText([("class:prompt", "> ")])).rstrip()


class CommandCompleter(Completer):
    """Completes the names of commands and of settings."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Completions at the cursor."""
        line = document.text_before_cursor
        if not line.startswith("/"):
            return
        command, blank, rest = line[1:].partition(" ")
        if not blank:
            for name in COMMANDS:
                if name.startswith(command):
                    yield Completion(f"/{name}", start_position=-len(line), display_meta=COMMANDS[name].help)
        elif command == "set" and " " not in rest:
            for key in known():
                if key.startswith(rest):
                    yield Completion(key, start_position=-len(rest))


class _BestEffortHistory(FileHistory):
    """A history that stops being written when its file refuses."""

    def load_history_strings(self) -> Iterable[str]:
        try:
            yield from super().load_history_strings()
        except OSError:
            return

    def store_string(self, string: str) -> None:
        try:
            super().store_string(string)
        except (OSError, UnicodeError):
            return


def _open(path: Path | None) -> History:
    return InMemoryHistory() if path is None else _BestEffortHistory(str(path))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None and buffer.complete_state.current_completion is not None:
            buffer.complete_state = None
        elif buffer.document.current_line_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def _clear_or_interrupt(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return keys
