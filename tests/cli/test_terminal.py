"""The chat on a real terminal: what a person sees and presses."""

import json
import os
import select
import subprocess
import sys
import time

import pytest

pty = pytest.importorskip("pty", reason="pseudo-terminals are a matter of POSIX")

PROMPT = "> "
CTRL_C, CTRL_D, ENTER = "\x03", "\x04", "\r"


# Makes standard input the terminal from which Ctrl-C comes, then becomes the program.
TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Terminal:
    """A program on a pseudo-terminal of 100 x 30 characters."""

    def __init__(self, *arguments):
        self._master, slave = pty.openpty()
        environment = os.environ | {"TERM": "xterm-256color", "LINES": "30", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        self.shown = ""

    def wait_for(self, text, seconds=30):
        """Reads until `text` appears in what was not waited for yet, and returns what came until then."""
        until = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < until, f"{text!r} did not appear in {self.shown!r}"
            ready, _, _ = select.select([self._master], [], [], 0.2)
            if ready:
                self.shown += self._read()
        before, _, self.shown = self.shown.partition(text)
        return before

    def press(self, keys):
        """Types."""
        os.write(self._master, keys.encode())

    def end(self, seconds=30):
        """Waits for the program's end; its exit code."""
        until = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < until:
            if select.select([self._master], [], [], 0.2)[0]:
                self.shown += self._read()
        return self._process.returncode

    def close(self):
        """Ends the program whatever it does."""
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def _read(self):
        try:
            return os.read(self._master, 1 << 16).decode(errors="replace")
        except OSError:  # the other side is closed
            return ""


@pytest.fixture
def terminal():
    """Starts programs on terminals of their own."""
    started = []

    def start(*arguments):
        started.append(Terminal(*arguments))
        return started[-1]

    yield start
    for one in started:
        one.close()


SCRIPTED = """
import sys, time
from rich.console import Console
from minicpm.cli.talk.chat import Chat
from minicpm.cli.talk.history import history_file
from minicpm.cli.talk.keyboard import Keyboard
from minicpm.cli.talk.loop import talk
from minicpm.cli.talk.screen import Screen
from minicpm.text.events import End, ReasoningDelta, TextDelta, Timings, Usage

class Model:
    def chat(self, messages, *, thinking="auto", **sampling):
        question = messages[-1]["content"]
        if thinking != "off":
            yield ReasoningDelta("considering")
        yield TextDelta(f"You **said** {question!r}.")
        while question == "forever":
            time.sleep(0.01)
            yield TextDelta(" on")
        yield End("stop", Usage(10, 5, 4), Timings(0.1, 0.2))

chat = Chat(Model(), Screen(Console()), context=100)
talk(chat, Keyboard(history_file()))
chat.close()
print("left")
"""


def test_a_chat_from_the_first_key_to_the_last(terminal, tmp_path):
    screen = terminal("-c", SCRIPTED)
    screen.wait_for(PROMPT)
    screen.press(f"hello{ENTER}")
    assert "considering" in screen.wait_for("answer 5 tokens at 20/s")
    screen.press(f"one\\{ENTER}two{ENTER}")
    screen.wait_for("'one\\ntwo'")
    screen.press(f"/no_think{ENTER}")
    screen.wait_for("without thinking")
    screen.press(f"forever{ENTER}")
    screen.wait_for(" on on on")
    screen.press(CTRL_C)
    screen.wait_for("Stopped.")
    screen.press(f"/save {tmp_path / 'chat.json'}{ENTER}")
    screen.wait_for("Saved 6 messages")
    screen.wait_for(PROMPT)
    screen.press(CTRL_C)
    screen.wait_for("Ctrl-C once more")
    screen.wait_for(PROMPT)
    screen.press(CTRL_D)
    screen.wait_for("left")
    assert screen.end() == 0
    messages = json.loads((tmp_path / "chat.json").read_text())["messages"]
    assert [m["content"][:17] for m in messages] == [
        "hello", "You **said** 'hel", "one\ntwo", "You **said** 'one", "forever", "You **said** 'for",
    ]  # fmt: skip
    history = (tmp_path / "home" / ".local" / "state" / "minicpm" / "history").read_text()
    assert "+one\n+two\n" in history


def test_the_program_talks_on_a_terminal(terminal, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.parent)
    screen = terminal("-m", "minicpm", "chat", "tiny", "--max-tokens", "5", "--ignore-eos", "--seed", "1")
    before = screen.wait_for("Ctrl-D leaves")
    assert "tiny, up to 32,768 tokens" in before
    assert "Pulling" not in before
    screen.press(f"hello{ENTER}")
    screen.wait_for("answer 5 tokens")
    screen.press(f"/tokens{ENTER}")
    screen.wait_for("of 32,768 tokens")
    screen.press(f"/set max_tokens 20000{ENTER}")
    screen.press(f"and now for long{ENTER}")
    screen.wait_for("and now for long")
    time.sleep(0.5)
    screen.press(CTRL_C)
    screen.wait_for("topped")
    screen.press(f"/exit{ENTER}")
    assert screen.end() == 0


def test_ctrl_c_while_the_program_loads(terminal, tiny):
    screen = terminal("-m", "minicpm", "chat", str(tiny))
    screen.wait_for("Loading")
    screen.press(CTRL_C)
    assert screen.end() == 130
    assert "Stopped before" in screen.shown
    assert "Traceback" not in screen.shown


def test_a_terminal_without_abilities_is_no_obstacle(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    screen = terminal(
        "-c", SCRIPTED.replace("import sys, time", "import os, sys, time; os.environ['TERM'] = 'dumb'")
    )
    screen.wait_for(PROMPT)
    screen.press(f"hello{ENTER}")
    screen.wait_for("You **said** 'hello'.")
    screen.wait_for(PROMPT)
    screen.press(CTRL_D)
    screen.wait_for("left")
