"""Typing at the prompt: several lines, history, completion, Ctrl-C and Ctrl-D."""

import os
import re
import threading
import time

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from minicpm.cli.talk.history import history_file
from minicpm.cli.talk.keyboard import CommandCompleter, Keyboard

ENTER, ALT_ENTER, UP, CTRL_C, CTRL_D, TAB = "\r", "\x1b\r", "\x1b[A", "\x03", "\x04", "\t"
PASTED = "\x1b[200~one\ntwo\x1b[201~"


@pytest.fixture
def typed(tmp_path):
    """Types keys and returns the messages that were read; an exception ends them."""

    def run(keys, history=tmp_path / "history"):
        with create_pipe_input() as keyboard:
            typist = threading.Thread(target=_type, args=(keyboard, keys))
            typist.start()
            reader = Keyboard(history, input=keyboard, output=DummyOutput())
            messages = []
            while True:
                try:
                    messages.append(reader.read())
                except (EOFError, KeyboardInterrupt) as end:
                    typist.join()
                    return [*messages, type(end)]

    return run


def _type(keyboard, keys):
    """Waits a little where a person would see something happen first: a prompt, a completion."""
    for part in re.split(f"(?<=[{ENTER}{TAB}])", keys):
        if part:
            keyboard.send_text(part)
            time.sleep(0.15)


@pytest.mark.parametrize(
    ("keys", "messages"),
    [
        (f"hello{ENTER}", ["hello"]),
        (f"one{ALT_ENTER}two{ENTER}", ["one\ntwo"]),
        (f"one\\{ENTER}two\\{ENTER}three{ENTER}", ["one\ntwo\nthree"]),
        (f"{PASTED}{ENTER}", ["one\ntwo"]),
        (f"你好 🌍 {ENTER}", ["你好 🌍"]),
        (f"one{ENTER}two{ENTER}", ["one", "two"]),
        (f"half{CTRL_C}whole{ENTER}", ["whole"]),
        (f"/sys{TAB} x{ENTER}", ["/system x"]),
        (f"one{ENTER}{UP}{ENTER}", ["one", "one"]),
    ],
)
def test_keys_become_messages(keys, messages, typed):
    assert typed(keys + CTRL_D) == [*messages, EOFError]


def test_ctrl_c_at_an_empty_prompt_is_an_interrupt(typed):
    assert typed(CTRL_C) == [KeyboardInterrupt]


def test_history_lasts_from_one_chat_to_the_next(typed):
    typed(f"one{ALT_ENTER}two{ENTER}{CTRL_D}")
    assert typed(f"{UP}{UP}{ENTER}{CTRL_D}") == ["one\ntwo", EOFError]


def test_a_history_that_cannot_be_written_is_no_obstacle(typed, tmp_path):
    assert typed(f"one{ENTER}{UP}{ENTER}{CTRL_D}", tmp_path / "absent" / "x") == ["one", "one", EOFError]
    assert typed(f"one{ENTER}{CTRL_D}", None) == ["one", EOFError]


def test_the_history_lies_in_the_state_folder_and_is_private(tmp_path, monkeypatch):
    assert history_file() == tmp_path / "home" / ".local" / "state" / "minicpm" / "history"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    file = history_file()
    assert file == tmp_path / "state" / "minicpm" / "history"
    assert file.stat().st_mode & 0o077 == 0


def test_without_a_home_there_is_no_history(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert history_file() is None
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert history_file() is None


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("/s", ["/system", "/save", "/set"]),
        ("/ex", ["/exit"]),
        ("/set t", ["thinking", "truncate", "temperature", "top_k", "top_p"]),
        ("/set top_k 4", []),
        ("hello", []),
        ("/nothing", []),
    ],
)
def test_commands_and_settings_are_completed(line, completions):
    found = CommandCompleter().get_completions(Document(line), CompleteEvent())
    assert [sorted(c.text for c in found)] == [sorted(completions)]
