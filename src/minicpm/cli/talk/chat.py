"""The chat itself: lines in, answers and the effects of commands out."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from minicpm.cli.talk.conversation import Conversation
from minicpm.cli.talk.echo import echo_off
from minicpm.cli.talk.interrupts import Interrupts
from minicpm.cli.talk.reading import Reading
from minicpm.cli.talk.screen import AnswerView, Screen
from minicpm.cli.talk.settings import Settings
from minicpm.cli.talk.speed import speed_line
from minicpm.errors import BadImage, MessageError, MiniCPMError, PromptTooLong
from minicpm.text.chat import ChatModel
from minicpm.text.events import End, Event, ReasoningDelta, TextDelta, ToolCall


class Reader(Protocol):
    """Where lines come from."""

    def read(self) -> str:
        """The next message, perhaps of several lines; EOFError to leave, KeyboardInterrupt for Ctrl-C."""
        ...


@dataclass(slots=True)
class _Collected:
    """What an answer brought."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    end: End | None = None

    def take(self, event: Event, view: AnswerView) -> None:
        """Keeps an event and shows it."""
        match event:
            case ReasoningDelta(text):
                self.reasoning.append(text)
                view.reasoning(text)
            case TextDelta(text) | ToolCall(raw=text):
                self.text.append(text)
                view.text(text)
            case End():
                self.end = event


class Chat:
    """Talks with one model. `context` is the most tokens it can hold, where that is known."""

    def __init__(
        self,
        model: ChatModel,
        screen: Screen,
        *,
        conversation: Conversation | None = None,
        settings: Settings | None = None,
        context: int | None = None,
    ) -> None:
        self.screen = screen
        self.conversation = conversation or Conversation()
        self.settings = settings or Settings()
        self.context = context
        self.last: End | None = None
        self._model = model
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="answer")

    def close(self) -> None:
        """Lets the thread of the answers go; call it when the chat is over."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def ask(self, question: str) -> None:
        """Asks, shows the answer while it comes, and keeps both; what is refused is not kept."""
        self.conversation.ask(question)
        collected = _Collected()
        try:
            notes, stopped = self._read(collected)
        except MiniCPMError as error:
            self.conversation.take_back()
            self.screen.refuse(str(error))
            if isinstance(error, MessageError | BadImage) and self.conversation.waiting:
                self.conversation.waiting = []
                self.screen.note("The picture is put away.")
            if isinstance(error, PromptTooLong):
                self.screen.note("/set truncate on lets the oldest turns go; /reset begins anew.")
            return
        self._keep(collected, stopped)
        for note in notes:
            self.screen.note(note)
        self._sum_up(collected.end, stopped)

    def _sum_up(self, end: End | None, stopped: bool) -> None:
        if end is not None:
            self.last = end
            self.screen.note(speed_line(end))
        elif stopped:
            self.screen.note("Stopped.")
        self.screen.say("")

    def _read(self, collected: _Collected) -> tuple[tuple[str, ...], bool]:
        """The notes of the answer, and whether Ctrl-C stopped it."""
        messages = list(self.conversation.messages)
        options = self.settings.chat_options()
        with echo_off(), self.screen.answer() as view, Interrupts() as interrupts:
            reading = Reading(self._pool, lambda: self._model.chat(messages, **options))
            for event in _stopping(reading, interrupts):
                if event is None:
                    view.waiting()
                else:
                    collected.take(event, view)
        return reading.notes, interrupts.came

    def _keep(self, collected: _Collected, stopped: bool) -> None:
        text = "".join(collected.text)
        if text.strip() or not stopped:
            self.conversation.answer(text, "".join(collected.reasoning))
            return
        self.conversation.take_back()
        self.screen.note("Stopped before the answer began; the question is not kept.")


def _stopping(reading: Reading, interrupts: Interrupts) -> Iterator[Event | None]:
    """Events of an answer; the first Ctrl-C stops the model, and what it has written still comes."""
    stopped = False
    try:
        for event in reading:
            if interrupts.came and not stopped:
                stopped = True
                reading.stop()
            yield event
    finally:
        reading.stop()
