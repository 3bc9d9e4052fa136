"""A model's way to talk: conversations to prompt ids, and answers back to events."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minicpm.errors import BadParameter, MessageError
from minicpm.text.chat import Message, Thinking, Tool
from minicpm.text.images.parts import bytes_of_url
from minicpm.text.images.slots import ImageFormat, expanded, require_images_read, with_slots, written
from minicpm.text.messages import Turn, normalise_messages
from minicpm.text.neutral import Neutraliser, free_mark
from minicpm.text.parser import StreamParser
from minicpm.text.pieces import Piece
from minicpm.text.problems import strings_in
from minicpm.text.prompt import Prompt, PromptImage
from minicpm.text.recognition import recognise
from minicpm.text.rendering import Rendering, choose_rendering
from minicpm.text.sandbox import Limits
from minicpm.text.templates import BuiltIn, Conversation, built_in
from minicpm.text.tokenizer import Tokenizer
from minicpm.text.tools import check_tools, fold_tools

_ENABLE: dict[Thinking, bool | None] = {"on": True, "off": False, "auto": None}
_OUTPUT_FLOOR = 4 << 20


class ChatFormat:
    """Template, tokenizer and tool dialect of one model; immutable, and usable from several threads.

    `template_origin` says whether the checkpoint's own template is used or a built-in one, `template_hash` is
    the sha256 of its text, and `stop_ids` are the ids that end a turn. `images` is how prompts hold images,
    None for a model that does not see.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: BuiltIn,
        dialect: str,
        rendering: Rendering,
        *,
        images: ImageFormat | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.images = images
        self.dialect = dialect
        self.stop_ids = tokenizer.eos_ids
        self.template_hash = rendering.digest
        self.template_origin = rendering.origin
        self._template = template
        self._rendering = rendering
        self._text_markers = template.markers - tokenizer.special_ids.keys()
        self._openings: dict[bool | None, str | None] = {}

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        template: str,
        dialect: str,
        tokenizer: Tokenizer | None = None,
        limits: Limits | None = None,
        images: ImageFormat | None = None,
    ) -> ChatFormat:
        """Reads a model folder; `template` names the built-in format for a checkpoint without its own.

        The markers in a checkpoint's own template go before `template` and `dialect`. `tokenizer` saves
        loading it twice; `limits` bound the checkpoint's own template; `images` is for a model that sees.
        """
        chosen = built_in(template)
        StreamParser(dialect)
        loaded = Tokenizer.from_folder(path) if tokenizer is None else tokenizer
        rendering = choose_rendering(Path(path), chosen, loaded.names, limits)
        chosen, dialect = recognise(rendering.source, chosen, dialect)
        return cls(loaded, chosen, dialect, rendering, images=images)

    def prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        thinking: Thinking = "auto",
        generate: bool = True,
    ) -> Prompt:
        """The prompt's ids and images; as `prompt_ids`, and BadImage for an image that is no data URL."""
        ids = self.prompt_ids(messages, tools=tools, thinking=thinking, generate=generate)
        urls = [url for turn in normalise_messages(messages) for url in turn.get("images", ())]
        places = self.images.places(ids, self.tokenizer) if self.images and urls else []
        shown = zip(places, map(bytes_of_url, urls), strict=True)
        return Prompt(ids, tuple(PromptImage(place, data) for place, data in shown))

    def prompt_ids(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        thinking: Thinking = "auto",
        generate: bool = True,
    ) -> list[int]:
        """The prompt's ids, with exactly one BOS where the model takes one.

        What callers write stays text, whatever it spells. `generate` ends the prompt where the answer begins.
        Raises MessageError for malformed input, TemplateError where the template fails.
        """
        return self.tokenizer.encode_prompt(self.prompt_pieces(messages, tools, thinking, generate))

    def prompt_text(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        thinking: Thinking = "auto",
        generate: bool = True,
    ) -> str:
        """The prompt as the template wrote it, for people to read."""
        return "".join(piece.text for piece in self.prompt_pieces(messages, tools, thinking, generate))

    def prompt_pieces(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        thinking: Thinking = "auto",
        generate: bool = True,
    ) -> list[Piece]:
        """The prompt as text and control spellings."""
        turns = normalise_messages(messages)
        switch = self._switch(thinking, turns)
        return self._pieces(Conversation(turns, self._tools(tools), switch, generate))

    def parser(self, *, thinking: Thinking = "auto", tools: Sequence[Tool] | None = None) -> StreamParser:
        """A parser for one answer to a prompt made with the same `thinking` and `tools`."""
        opened = self._opening(_switched(thinking))
        return StreamParser(self.dialect, check_tools(tools), opened_by=opened)

    def _tools(self, tools: Sequence[Tool] | None) -> list[dict[str, Any]]:
        checked = check_tools(tools)
        if checked and (self.dialect == "none" or not self._template.takes_tools):
            raise MessageError(
                f"{len(checked)} tools were given, and this model's format has no place for tools. "
                "Leave them out, or use a model that calls tools, such as MiniCPM3, MiniCPM4 or MiniCPM5."
            )
        return fold_tools(checked) if self.dialect == "py-call" else checked

    def _switch(self, thinking: Thinking, turns: list[Turn]) -> bool | None:
        """`auto` leaves it to the template, or to /think and /no_think where the family reads them."""
        switch = _switched(thinking)
        if switch is not None or not self._template.suffixes:
            return switch
        queries = [turn["content"] for turn in turns if turn["role"] == "user"]
        query = queries[-1].rstrip() if queries else ""
        if query.endswith("/no_think"):
            return False
        return True if query.endswith("/think") else None

    def _pieces(self, conversation: Conversation) -> list[Piece]:
        images = sum(len(turn.get("images", ())) for turn in conversation.turns)
        require_images_read(self.images, images, self.tokenizer)
        texts = [*strings_in(written(conversation.turns)), *strings_in(conversation.tools)]
        mark = free_mark([*texts, self._rendering.source])
        slot = free_mark([*texts, self._rendering.source, mark]) if images else ""
        neutral = Neutraliser(self.tokenizer.spellings, self._text_markers, mark)
        safe = Conversation(
            [neutral.turn(with_slots(turn, slot)) for turn in conversation.turns],
            [neutral.tool(tool) for tool in conversation.tools],
            conversation.enable_thinking,
            conversation.generate,
            self.tokenizer.names.get("bos_token", ""),
            self.tokenizer.names.get("eos_token", ""),
        )
        cap = max(_OUTPUT_FLOOR, 4 * sum(map(len, texts)))
        pieces = neutral.split(self._rendering.render(safe, characters=cap))
        return expanded(pieces, slot, self.images, images=images) if self.images and images else pieces

    def _opening(self, switch: bool | None) -> str | None:
        """The thought marker that a prompt ends with, seen on a prompt of the shortest kind."""
        if switch not in self._openings:
            shortest = Conversation([{"role": "user", "content": "a"}], [], switch, generate=True)
            prompt = "".join(piece.text for piece in self._pieces(shortest)).rstrip()
            markers = ("<think>", "<|thought_start|>")
            self._openings[switch] = next((marker for marker in markers if prompt.endswith(marker)), None)
        return self._openings[switch]


def _switched(thinking: Thinking) -> bool | None:
    if thinking not in _ENABLE:
        raise BadParameter(f"thinking is {thinking!r:.60}. Use one of {', '.join(_ENABLE)}.")
    return _ENABLE[thinking]
