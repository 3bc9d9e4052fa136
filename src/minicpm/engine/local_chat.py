"""Chats with a model in this process: messages to a prompt, the engine's tokens to events."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from minicpm.engine.admission import longest
from minicpm.engine.answer import Answer
from minicpm.engine.defaults import sampling_defaults
from minicpm.engine.engine import Engine
from minicpm.engine.images import PlacedImage, viewer
from minicpm.engine.request import Request
from minicpm.engine.sampling import SamplingParams
from minicpm.engine.truncation import without_oldest
from minicpm.errors import BadParameter
from minicpm.text.chat import Message, Thinking, Tool
from minicpm.text.format import ChatFormat
from minicpm.text.prompt import Prompt
from minicpm.text.tokenizer import Tokenizer

ANSWER_ROOM = 512
"""Tokens that truncation leaves for the answer when max_tokens does not say."""


class LocalChat:
    """A ChatModel over an engine. As thread-safe as the engine: any number of answers may run at once."""

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, chat_format: ChatFormat, generation: Mapping[str, Any]
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._format = chat_format
        self._generation = generation

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        thinking: Thinking = "auto",
        truncate: bool = False,
        adapter: str | None = None,
        **sampling: Any,
    ) -> Answer:
        """Events of the answer; closing the iterator stops it.

        Sampling takes SamplingParams' names over the checkpoint's own defaults. Raises PromptTooLong when
        the conversation does not fit, unless `truncate` lets the oldest turns go; the answer's notes say so.
        `adapter` names a loaded adapter to answer with. Images are decoded before this returns; BadImage is
        raised for one that cannot be, MissingExtra without Pillow.
        """
        params = self._params(thinking, sampling)
        notes: tuple[str, ...] = ()
        if truncate:
            messages, notes = self._shortened(messages, tools, thinking, params.max_tokens)
        parser = self._format.parser(thinking=thinking, tools=tools)
        prompt = self._format.prompt(messages, tools=tools, thinking=thinking)
        request = Request(prompt.ids, params, self._tokenizer.detokenizer, adapter)
        if prompt.images:
            longest(request, self._engine.limits)  # before pictures are decoded in vain
            request = replace(request, images=self._placed(prompt))
        stream = self._engine.submit(request)
        return Answer(stream, parser, notes=notes)

    def _placed(self, prompt: Prompt) -> tuple[PlacedImage, ...]:
        """The prompt's images as the model sees them."""
        vision = self._engine.decoder.config.vision
        if vision is None:
            return ()
        view = viewer(vision).view
        return tuple(PlacedImage(image.start, view(image.data)) for image in prompt.images)

    def _params(self, thinking: Thinking, sampling: Mapping[str, Any]) -> SamplingParams:
        family = self._engine.decoder.config.family
        params = SamplingParams.of(sampling, sampling_defaults(self._generation, family, thinking=thinking))
        if params.n != 1:
            raise BadParameter(
                f"A chat gives one answer, not n = {params.n}. Call chat again for another one."
            )
        return params

    def _shortened(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None,
        thinking: Thinking,
        max_tokens: int | None,
    ) -> tuple[list[Message], tuple[str, ...]]:
        room = self._engine.limits.prompt_tokens
        room -= min(max_tokens or ANSWER_ROOM, room // 2)

        def length(kept: Sequence[Message]) -> int:
            return len(self._format.prompt_ids(kept, tools=tools, thinking=thinking))

        whole = length(messages)
        kept, dropped = (list(messages), 0) if whole <= room else without_oldest(messages, length, room)
        if not dropped:
            return kept, ()
        return kept, (
            f"{dropped} oldest turns were left out: with them the prompt has {whole:,} tokens, and {room:,} "
            "leave room for an answer.",
        )
