"""What was said so far, and how it is saved to a file and read back."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from minicpm.checkpoint.atomic import write_file
from minicpm.errors import BadInput
from minicpm.text.chat import Message, TextPart
from minicpm.text.images.parts import ImagePart
from minicpm.text.messages import normalise_messages

_KIND = "minicpm chat"
_MAX_BYTES = 64 << 20


class Conversation:
    """Messages in OpenAI's shape; the system message, when there is one, is the first.

    `waiting` are pictures that the next question shows.
    """

    def __init__(self, system: str | None = None, pictures: Iterable[ImagePart] = ()) -> None:
        self.messages: list[Message] = []
        self.system = system
        self.waiting: list[ImagePart] = list(pictures)

    @property
    def system(self) -> str | None:
        """The system message's text, or None."""
        first = self.messages[0] if self.messages else None
        return str(first["content"]) if first is not None and first["role"] == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        rest = self.messages[1:] if self.system is not None else self.messages
        head: list[Message] = [] if text is None else [{"role": "system", "content": text}]
        self.messages = [*head, *rest]

    def ask(self, text: str) -> None:
        """Adds a question, with the pictures that wait for it."""
        shown, self.waiting = self.waiting, []
        written: TextPart = {"type": "text", "text": text}
        self.messages.append({"role": "user", "content": [*shown, written] if shown else text})

    def answer(self, text: str, reasoning: str = "") -> None:
        """Adds what the model said."""
        message: Message = {"role": "assistant", "content": text}
        if reasoning:
            message["reasoning_content"] = reasoning
        self.messages.append(message)

    def take_back(self) -> str | None:
        """Removes the last question with all that followed it, and returns it; None when there is none.

        Its pictures wait for the next question.
        """
        places = [i for i, message in enumerate(self.messages) if message["role"] == "user"]
        if not places:
            return None
        question = self.messages[places[-1]]["content"]
        del self.messages[places[-1] :]
        if isinstance(question, str):
            return question
        self.waiting = [part for part in question or () if part["type"] == "image_url"]
        return "".join(part["text"] for part in question or () if part["type"] == "text")

    def reset(self) -> None:
        """Forgets all but the system message."""
        self.waiting = []
        self.messages = [message for message in self.messages[:1] if message["role"] == "system"]

    def save(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Writes conversation and settings as JSON; BadInput rather than replacing a file of another kind."""
        if path.exists() and not _is_ours(path):
            raise BadInput(f"{path} exists and is no saved chat, so it is not replaced. Name another file.")
        document = {"kind": _KIND, **settings, "messages": self.messages}
        try:
            write_file(path, (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode())
        except OSError as error:
            raise BadInput(f"{path} cannot be written: {error.strerror}. Name another file.") from error

    def load(self, path: Path) -> dict[str, Any]:
        """Replaces the conversation by a saved one, or by a JSON list of messages; gives the saved settings.

        Raises BadInput or MessageError, and then changes nothing.
        """
        document = _read(path)
        document = {"messages": document} if isinstance(document, list) else document
        if not isinstance(document, dict) or not isinstance(document.get("messages"), list):
            raise BadInput(
                f"{path} holds no saved chat and no JSON list of messages. Name a file that /save wrote."
            )
        normalise_messages(document["messages"])
        self.messages, self.waiting = list(document["messages"]), []
        return {key: value for key, value in document.items() if key not in {"kind", "messages"}}


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BadInput(f"{path} has more than {_MAX_BYTES:,} bytes, too many for a chat.")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON: {error}. Name a file that /save wrote.") from error


def _is_ours(path: Path) -> bool:
    try:
        document = _read(path)
    except BadInput:
        return False
    return isinstance(document, dict) and document.get("kind") == _KIND
