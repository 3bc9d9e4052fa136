"""A chat over any ChatModel: questions, commands, refusals, and what Ctrl-C leaves."""

import io
import json
import signal
import threading
import time

import pytest
from rich.console import Console

from minicpm.cli.talk.chat import Chat
from minicpm.cli.talk.conversation import Conversation
from minicpm.cli.talk.loop import talk
from minicpm.cli.talk.screen import Screen
from minicpm.cli.talk.settings import Settings
from minicpm.errors import PromptTooLong
from minicpm.testing import ScriptedChat
from minicpm.text.events import End, ReasoningDelta, TextDelta, Timings, ToolCall, Usage


class Lines:
    """A reader of prepared lines; an exception among them is raised."""

    def __init__(self, *lines):
        self._lines = list(lines)

    def read(self):
        line = self._lines.pop(0) if self._lines else EOFError()
        if isinstance(line, BaseException):
            raise line
        return line


class Talk:
    """What came of a chat."""

    def __init__(self, model, *lines, **options):
        self.output = io.StringIO()
        screen = Screen(Console(file=self.output, width=100))
        self.chat = Chat(model, screen, **options)
        self.calls = model.calls if isinstance(model, ScriptedChat) else None
        self.reader = Lines(*lines)
        try:
            talk(self.chat, self.reader)
        finally:
            self.chat.close()

    @property
    def shown(self):
        return self.output.getvalue()

    @property
    def said(self):
        return [(message["role"], message["content"]) for message in self.chat.conversation.messages]


def test_an_answer_is_shown_and_kept_with_its_question():
    answer = [ReasoningDelta("\nhm"), ReasoningDelta("mm\n"), TextDelta("4"), TextDelta("2")]
    done = Talk(ScriptedChat([answer, "bye"]), "17 + 25?", "thanks")
    assert done.said == [("user", "17 + 25?"), ("assistant", "42"), ("user", "thanks"), ("assistant", "bye")]
    assert done.calls[1].messages[1]["reasoning_content"] == "\nhmmm\n"
    assert "hmm" in done.shown
    assert done.shown.index("hmm") < done.shown.index("42") < done.shown.index("bye")


def test_the_speed_of_an_answer_is_told():
    end = End("stop", Usage(1200, 101, 200), Timings(prefill_s=2.0, decode_s=4.0))
    done = Talk(ScriptedChat([[TextDelta("x"), end]]), "go", "/tokens", context=4096)
    assert "prompt 1,200 tokens (200 cached) at 500/s · answer 101 tokens at 25/s" in done.shown
    assert "1,301 of 4,096 tokens" in done.shown


def test_blank_lines_are_not_sent():
    assert Talk(ScriptedChat([]), "", "   ").said == []


def test_a_blank_before_a_slash_sends_the_line():
    done = Talk(ScriptedChat(["a folder"]), " /home is what?")
    assert done.said[0] == ("user", " /home is what?")


def test_calls_are_shown_as_the_model_wrote_them():
    call = ToolCall("1", "f", "{}", "f()")
    assert Talk(ScriptedChat([[call]]), "call").said[-1] == ("assistant", "f()")


def test_thinking_is_switched_by_commands():
    done = Talk(ScriptedChat(["a", "b", "c"]), "1", "/no_think", "2", "/think", "3")
    assert [call.thinking for call in done.calls] == ["auto", "off", "on"]


def test_the_system_message_is_set_shown_and_removed():
    done = Talk(
        ScriptedChat(["a", "b"]), "/system", "/system Be brief.", "1", "/system", "/system -", "2",
    )  # fmt: skip
    assert done.calls[0].messages[0] == {"role": "system", "content": "Be brief."}
    assert done.calls[1].messages[0]["role"] == "user"
    assert "There is no system message" in done.shown


def test_regenerate_asks_the_last_question_again():
    done = Talk(ScriptedChat(["a", "b", "c"]), "1", "2", "/regenerate")
    assert done.calls[2].messages == done.calls[1].messages
    assert done.said[-1] == ("assistant", "c")
    assert "no answer yet" in Talk(ScriptedChat([]), "/regenerate").shown


def test_undo_takes_back_one_exchange_after_the_other():
    done = Talk(ScriptedChat(["a", "b"]), "1", "2", "/undo", "/undo", "/undo")
    assert done.said == []
    assert "Taken back: 2" in done.shown
    assert "nothing to take back" in done.shown


def test_reset_forgets_all_but_the_system_message():
    done = Talk(ScriptedChat(["a"]), "/system s", "1", "/reset", "/tokens")
    assert done.said == [("system", "s")]
    assert "Nothing was counted yet" in done.shown


def test_a_saved_chat_is_continued_in_another_one(tmp_path):
    path = tmp_path / "my chat.json"
    first = Talk(ScriptedChat(["a"]), "/set seed 7", "/no_think", "1", f"/save {path}")
    assert json.loads(path.read_text())["sampling"] == {"seed": 7}
    second = Talk(ScriptedChat(["b"]), f"/load {path}", "2")
    assert second.said[:2] == first.said
    assert second.calls[0].sampling == {"seed": 7}
    assert second.calls[0].thinking == "off"


@pytest.mark.parametrize(
    "command", ["/save", "/load", "/load /absent", "/save /absent/x", "/set top_p 9", "/set nothing"]
)
def test_a_command_that_cannot_be_done_says_why_and_the_chat_goes_on(command):
    done = Talk(ScriptedChat(["fine"]), command, "go on")
    assert done.said[-1] == ("assistant", "fine")
    assert done.shown.split("fine")[0].strip().endswith((".", "seed,", "ignore_eos."))


def test_settings_are_shown_and_changed():
    done = Talk(ScriptedChat(["a"]), "/set", "/set temperature 0.25", "/set temperature", "1")
    assert "temperature = default" in done.shown
    assert "temperature = 0.25" in done.shown
    assert done.calls[0].sampling == {"temperature": 0.25}


def test_an_unknown_command_gets_a_suggestion_and_is_not_sent():
    done = Talk(ScriptedChat([]), "/regnerate")
    assert "Did you mean '/regenerate'?" in done.shown
    assert done.said == []


def test_help_names_every_command_and_how_to_write_several_lines():
    from minicpm.cli.talk.commands import COMMANDS

    shown = Talk(ScriptedChat([]), "/help").shown
    assert all(f"/{name}" in shown for name in COMMANDS)
    assert "Alt+Enter" in shown
    assert "backslash" in shown


@pytest.mark.parametrize(
    "leaving", [["/exit"], ["/quit"], [KeyboardInterrupt(), KeyboardInterrupt()], [EOFError()]]
)
def test_ways_to_leave(leaving):
    done = Talk(ScriptedChat([]), *leaving, "never read")
    assert done.reader.read() == "never read"


def test_ctrl_c_at_the_prompt_leaves_only_twice_in_a_row():
    done = Talk(ScriptedChat(["a"]), KeyboardInterrupt(), "1", KeyboardInterrupt(), "/exit", "never read")
    assert done.shown.count("Ctrl-C once more") == 2
    assert done.said[-1] == ("assistant", "a")


class Refusing:
    """A model whose second prompt is too long."""

    def __init__(self):
        self.asked = 0

    def chat(self, messages, *, tools=None, thinking="auto", **sampling):
        self.asked += 1
        if self.asked == 2:
            raise PromptTooLong("The prompt is too long. Shorten it.")
        return iter([TextDelta(f"answer {self.asked}"), End("stop")])


def test_a_refused_question_is_not_kept_and_the_chat_goes_on():
    done = Talk(Refusing(), "1", "2", "3")
    assert done.said == [("user", "1"), ("assistant", "answer 1"), ("user", "3"), ("assistant", "answer 3")]
    assert "The prompt is too long. Shorten it." in done.shown
    assert "/set truncate on" in done.shown


class Endless:
    """A model that writes until it is closed, and presses Ctrl-C after some pieces."""

    def __init__(self, before_ctrl_c):
        self._left = before_ctrl_c
        self.closed = threading.Event()
        self._ended = False

    def chat(self, messages, *, tools=None, thinking="auto", **sampling):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self._ended:
            raise StopIteration
        if self.closed.is_set():
            self._ended = True
            return End("abort", Usage(3, 2, 0))
        self._left -= 1
        if self._left == -1:
            signal.raise_signal(
                signal.SIGINT
            ) if threading.current_thread() is threading.main_thread() else _press()
            assert self.closed.wait(10), "the chat closes the answer"
            return ReasoningDelta("")
        return TextDelta("so ")

    def close(self):
        self.closed.set()


def _press():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def test_ctrl_c_stops_an_answer_and_keeps_what_was_written():
    done = Talk(Endless(2), "1", "/tokens")
    assert done.said == [("user", "1"), ("assistant", "so so ")]
    assert "stopped" in done.shown
    assert "5 tokens" in done.shown


def test_ctrl_c_before_an_answer_began_keeps_nothing():
    done = Talk(Endless(0), "1")
    assert done.said == []
    assert "the question is not kept" in done.shown


def test_a_generator_is_stopped_as_well():
    class Model:
        def chat(self, messages, **options):
            yield TextDelta("so ")
            _press()
            while True:
                yield TextDelta("")

    assert Talk(Model(), "1").said == [("user", "1"), ("assistant", "so ")]


def test_an_iterator_that_cannot_be_closed_is_left():
    class Slow:
        left = 10_000

        def __iter__(self):
            return self

        def __next__(self):
            time.sleep(0.001)
            self.left -= 1
            return TextDelta("so ")

    class Model:
        def chat(self, messages, **options):
            _press()
            return Slow()

    text = Talk(Model(), "1").said[-1][1]
    assert 0 < len(text) < 3 * Slow.left


def test_notes_of_an_answer_are_shown():
    class Noting(list):
        notes = ("2 oldest turns were left out.",)

        def __iter__(self):
            return iter([TextDelta("x"), End("stop")])

    class Model:
        def chat(self, messages, **options):
            assert options["truncate"] is True
            return Noting()

    done = Talk(Model(), "1", settings=Settings(truncate=True), conversation=Conversation("s"))
    assert "2 oldest turns were left out." in done.shown


def test_an_error_that_is_a_mistake_is_not_hidden():
    with pytest.raises(IndexError):
        Talk(ScriptedChat([]), "one question too many")
