"""Prints one answer: its text to standard output, everything else, when wanted, to standard error."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from minicpm.cli.failures import stage
from minicpm.cli.talk.printable import printable
from minicpm.cli.talk.speed import speed_line
from minicpm.text.events import End, Event, ReasoningDelta, TextDelta, ToolCall


@dataclass(slots=True)
class Printed:
    """What an answer brought."""

    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    end: End = field(default_factory=lambda: End("error"))
    notes: tuple[str, ...] = ()


def print_answer(events: Iterator[Event], *, verbose: bool = False, silent: bool = False) -> Printed:
    """Prints an answer as it comes, `silent` for one that is printed otherwise, and returns it.

    With `verbose` thinking and speed go to standard error. A call of the model is printed as it wrote it.
    """
    printed = Printed(notes=tuple(getattr(events, "notes", ())))
    out, thinking = _Out(sys.stdout, silent=silent), _Out(sys.stderr, silent=not verbose)
    try:
        with stage("Stopped.") as running:
            for event in events:
                running.check()
                _take(event, printed, out, thinking)
    finally:
        thinking.end()
        out.end()
    if verbose:
        say(speed_line(printed.end))
    if printed.reasoning and not (printed.text.strip() or printed.calls) and printed.end.reason == "length":
        say("The answer is empty: thinking took all the tokens. Raise --max-tokens, or say --thinking off.")
    return printed


def say_notes(notes: Sequence[str]) -> None:
    """Notes on an answer or a model, on standard error."""
    for note in notes:
        say(note)


def say(text: str) -> None:
    """A line on standard error."""
    print(printable(text), file=sys.stderr, flush=True)


def _take(event: Event, printed: Printed, out: "_Out", thinking: "_Out") -> None:
    match event:
        case TextDelta(text):
            printed.text += text
            out.write(text)
        case ReasoningDelta(text):
            printed.reasoning += text
            thinking.write(text)
        case ToolCall(raw=raw):
            printed.calls.append(event)
            out.write(raw)
        case End():
            printed.end = event


class _Out:
    """A stream that ends with a line end; a terminal is not steered by what a model writes."""

    def __init__(self, stream: TextIO, *, silent: bool) -> None:
        self._stream, self._silent = stream, silent
        self._shown = printable if stream.isatty() else str
        self._last = ""

    def write(self, text: str) -> None:
        if text and not self._silent:
            self._last = text[-1]
            self._stream.write(self._shown(text))
            self._stream.flush()

    def end(self) -> None:
        if not self._silent and self._last not in {"", "\n"}:
            self._stream.write("\n")
            self._stream.flush()
