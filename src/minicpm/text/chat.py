"""What applications ask of a model: to chat, to embed texts, to rank documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, runtime_checkable

from minicpm.text.events import Event
from minicpm.text.images.parts import ImagePart

Thinking: TypeAlias = Literal["on", "off", "auto"]
Role: TypeAlias = Literal["system", "user", "assistant", "tool"]


class TextPart(TypedDict):
    """One element of a list-valued content."""

    type: Literal["text"]
    text: str


class FunctionCall(TypedDict):
    """Name and arguments of a call; the arguments are JSON text or the parsed object."""

    name: str
    arguments: str | Mapping[str, Any]


class HistoryCall(TypedDict, total=False):
    """A call that an assistant message of the history made."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class Message(TypedDict, total=False):
    """One turn of a conversation in OpenAI's shape; `role` is required."""

    role: str
    content: str | Sequence[TextPart | ImagePart] | None
    reasoning_content: str | None
    tool_calls: Sequence[HistoryCall]
    tool_call_id: str
    name: str


Tool: TypeAlias = Mapping[str, Any]
"""A tool in OpenAI's shape: {"type": "function", "function": {"name", "description", "parameters"}}."""


@runtime_checkable
class ChatModel(Protocol):
    """Anything that answers a conversation: a local model, a remote server, a script of answers."""

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        thinking: Thinking = "auto",
        **sampling: Any,
    ) -> Iterator[Event]:
        """Yields deltas and calls, then exactly one `End`; closing the iterator stops the answer."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors."""

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector per text, all of one length."""
        ...


@runtime_checkable
class Reranker(Protocol):
    """Judges how well documents answer a query."""

    def rank(self, query: str, documents: Sequence[str]) -> list[float]:
        """One score per document, higher is better, in the order of the documents."""
        ...
