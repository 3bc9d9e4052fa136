"""The answer of a local model as events while it is written, and as one reply afterwards."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from minicpm.engine.request import FinishReason
from minicpm.engine.stream import Result, Stream
from minicpm.text.events import (
    Delta,
    End,
    EndReason,
    Event,
    ReasoningDelta,
    TextDelta,
    Timings,
    ToolCall,
    Usage,
)


class Parser(Protocol):
    """Splits an answer's text into content, reasoning and calls."""

    def push(self, text: str) -> list[Delta]:
        """Events that became certain."""
        ...

    def finish(self, reason: EndReason) -> list[Delta]:
        """Events left when no more text comes."""
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer; `notes` tells what was done to the conversation, such as turns left out."""

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: EndReason
    usage: Usage
    timings: Timings | None
    notes: tuple[str, ...] = ()


class Answer(Iterator[Event]):
    """Events of one answer, ending with `End`. Closing or dropping it stops the model."""

    def __init__(self, stream: Stream, parser: Parser, *, notes: tuple[str, ...] = ()) -> None:
        self.notes = notes
        self._stream = stream
        self._events = _events(stream, parser)

    def __next__(self) -> Event:
        return next(self._events)

    def __enter__(self) -> "Answer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._stream.abort()

    def close(self) -> None:
        """Stops the model; from another thread the reader then meets End("abort")."""
        self._stream.abort()

    def reply(self) -> Reply:
        """Reads what is left of the events into one reply."""
        events = list(self)
        end = events[-1]
        assert isinstance(end, End), "every answer ends with End"
        return Reply(
            text="".join(e.text for e in events if isinstance(e, TextDelta)),
            reasoning="".join(e.text for e in events if isinstance(e, ReasoningDelta)),
            tool_calls=tuple(e for e in events if isinstance(e, ToolCall)),
            finish_reason=end.reason,
            usage=end.usage,
            timings=end.timings,
            notes=self.notes,
        )


def _events(stream: Stream, parser: Parser) -> Iterator[Event]:
    called = False
    for output in stream:
        for event in parser.push(output.text) if output.text else ():
            called = called or isinstance(event, ToolCall)
            yield event
    reason = stream.so_far().samples[0].finish_reason
    assert reason is not None, "a stream that has been read to its end has finished"
    for event in parser.finish(reason):
        called = called or isinstance(event, ToolCall)
        yield event
    yield _end(stream.so_far(), "tool_calls" if called and reason == "stop" else reason)


def _end(result: Result, reason: FinishReason | EndReason) -> End:
    return End(reason, usage(result), Timings(result.prefill_s, result.decode_s))


def usage(result: Result) -> Usage:
    """Token counts over all samples."""
    written = sum(len(sample.token_ids) for sample in result.samples)
    return Usage(result.prompt_tokens, written, result.cached_tokens)
