"""Loads a model and offers what people do with one: generate, chat, score."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import torch

from minicpm import checkpoint as checkpoints
from minicpm.cache import PAGE
from minicpm.checkpoint.adapters import Adapter, attach, merge, open_adapter
from minicpm.checkpoint.progress import Progress
from minicpm.config import ModelConfig, dtype_name
from minicpm.config.kv import AUTO, kv_notes
from minicpm.engine.answer import Answer, Reply
from minicpm.engine.completion import Completer, Completion, Score
from minicpm.engine.defaults import end_ids, sampling_defaults
from minicpm.engine.engine import Engine
from minicpm.engine.images import image_format
from minicpm.engine.local_chat import LocalChat
from minicpm.engine.memory import default_pages, free_bytes_on
from minicpm.engine.sampling import SamplingParams
from minicpm.engine.stream import Stream
from minicpm.errors import BadParameter
from minicpm.models import registry
from minicpm.models.decoder import Decoder
from minicpm.text.chat import Message, Thinking, Tool
from minicpm.text.format import ChatFormat
from minicpm.text.tokenizer import Tokenizer

__all__ = ["Model", "load"]


class Model:
    """A loaded model with its tokenizer, chat format and engine; safe to use from several threads.

    `notes` lists what a user should know: parts of the config that are not used, bounds on the context.
    """

    def __init__(
        self,
        decoder: Decoder,
        checkpoint: checkpoints.Checkpoint,
        *,
        pages: int | None = None,
        kv: str = AUTO,
        notes: Sequence[str] = (),
        **engine: Any,
    ) -> None:
        """`engine` takes Engine's further options. Raises TokenizerError, TemplateError or BadConfig."""
        family = registry.family(decoder.config.family)
        self.path = checkpoint.path
        self.tokenizer = Tokenizer.from_folder(self.path)
        self.format = ChatFormat.from_folder(
            self.path,
            template=family.template,
            dialect=family.dialect,
            tokenizer=self.tokenizer,
            images=image_format(decoder.config.vision),
        )
        self._generation = checkpoint.generation
        self._defaults = sampling_defaults(self._generation, family.name)
        ends = {
            *decoder.config.eos,
            *end_ids(self._generation),
            *self.tokenizer.eos_ids,
            *self.format.stop_ids,
        }
        self.engine = Engine(decoder, pages=pages or _pages(decoder, kv), kv=kv, eos_ids=ends, **engine)
        self.chat_model = LocalChat(self.engine, self.tokenizer, self.format, self._generation)
        self._completer = Completer(self.engine, self.tokenizer)
        self.notes = (*self.config.notes, *notes, *kv_notes(self.config, kv), *_bounds(self.engine))

    @property
    def decoder(self) -> Decoder:
        """The module itself."""
        return self.engine.decoder

    @property
    def config(self) -> ModelConfig:
        """What the model is."""
        return self.decoder.config

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[int]],
        *,
        adapter: str | None = None,
        **sampling: Any,
    ) -> list[Completion]:
        """Continues text (BOS is added) or token ids (taken as they are), without a chat template.

        Sampling takes SamplingParams' names over the checkpoint's own defaults; without max_tokens a text may
        fill the context. Completions come in the order of prompts, n per prompt. `adapter` names one that was
        loaded with the model.
        """
        return self._completer.generate(prompts, SamplingParams.of(sampling, self._defaults), adapter=adapter)

    def stream(self, prompt: str | Sequence[int], *, adapter: str | None = None, **sampling: Any) -> Stream:
        """Like `generate` for one prompt, token by token as they are written."""
        return self._completer.stream(prompt, SamplingParams.of(sampling, self._defaults), adapter=adapter)

    @overload
    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        stream: Literal[True],
        tools: Sequence[Tool] | None = None,
        thinking: Thinking = "auto",
        adapter: str | None = None,
        **sampling: Any,
    ) -> Answer: ...

    @overload
    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        stream: Literal[False] = False,
        tools: Sequence[Tool] | None = None,
        thinking: Thinking = "auto",
        adapter: str | None = None,
        **sampling: Any,
    ) -> Reply: ...

    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        stream: bool = False,
        tools: Sequence[Tool] | None = None,
        thinking: Thinking = "auto",
        adapter: str | None = None,
        **sampling: Any,
    ) -> Answer | Reply:
        """Answers a conversation (or one user message as a string): a Reply, or with `stream` its events.

        `thinking` is "on", "off" or "auto" (as the model does by itself). `truncate=True` lets the oldest
        turns go when the context is full; without it PromptTooLong is raised. `adapter` names one that was
        loaded with the model.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        answer = self.chat_model.chat(messages, tools=tools, thinking=thinking, adapter=adapter, **sampling)
        return answer if stream else answer.reply()

    def score(self, text: str | Sequence[int], *, adapter: str | None = None) -> Score:
        """Log-probability of every token of a text given those before, and the perplexity."""
        return self._completer.score(text, adapter=adapter)


def load(
    model: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    backend: str = "auto",
    threads: int | None = None,
    context: int | None = None,
    sparse: str = "auto",
    weights: str = "plain",
    kv: str = AUTO,
    revision: str | None = None,
    offline: bool = False,
    pages: int | None = None,
    max_sequences: int = 64,
    max_batch_tokens: int = 512,
    prefix_cache: bool = True,
    adapters: Mapping[str, str | Path] | None = None,
    merged: str | Path | None = None,
    progress: Progress | None = None,
) -> Model:
    """A model from a folder, "nano", a hub name ("openbmb/MiniCPM4-0.5B") or "ms:ORG/NAME".

    `context` extends a model that publishes a longer one; `pages` of 64 tokens bound the memory of all
    sequences together (one full context, as far as memory allows, unless said). `adapters` are LoRA folders
    by the name that requests use; `merged` is one that is added to the weights for good, before the others.
    `sparse` "on" lets long sequences attend to chosen blocks (InfLLM-V2) whatever the checkpoint says, "off"
    to all there is. `threads` are those of the native kernels, one per physical core unless said.
    `weights` "packed" holds ternary ones (BitCPM4) in about two bits each: less memory, the same answers.
    "ternary" rounds the head to 8 bits besides, which is sooner.
    "int8" and "int4" round the weights of any model while loading, to 8 or 4 bits with a scale per group,
    and its head to 8: a half or a third of the memory, and slightly other answers, sooner.
    `kv` "int8" holds keys and values in 8 bits, about half the memory of a context, for the native kernels.
    All errors are MiniCPMErrors.
    """
    if weights != "plain" and merged is not None:
        raise BadParameter(
            f"An adapter cannot be merged into {weights} weights, where rounding would lose most of it. Load "
            "it beside them, as one of `adapters`, or load plain weights."
        )
    folder = checkpoints.resolve(str(model), revision=revision, offline=offline, progress=progress)
    find = partial(checkpoints.resolve, offline=offline, progress=progress)
    summed = None if merged is None else open_adapter(find(str(merged)))
    beside = {name: open_adapter(find(str(path))) for name, path in (adapters or {}).items()}
    opened = checkpoints.open_checkpoint(folder)
    decoder = checkpoints.load(
        opened,
        dtype=dtype,
        device=device,
        backend=backend,
        threads=threads,
        context=context,
        sparse=sparse,
        weights=weights,
        kv=kv,
        progress=progress,
    )
    notes = _adapt(decoder, str(model), summed, beside)
    if context is not None and pages is None:
        pages = -(-context // PAGE)
    return Model(
        decoder,
        opened,
        pages=pages,
        kv=kv,
        max_sequences=max_sequences,
        max_batch_tokens=max_batch_tokens,
        prefix_cache=prefix_cache,
        notes=notes,
    )


def _adapt(
    decoder: Decoder, model: str, merged: Adapter | None, adapters: Mapping[str, Adapter]
) -> list[str]:
    """Merge and attach what was asked for; what a user should know of it."""
    notes: list[str] = []
    if merged is not None:
        notes += [*merged.settings.notes_for(model), *merge(decoder, merged).notes]
    for name, adapter in adapters.items():
        attach(decoder, name, adapter)
        notes += [f"Adapter {name}: {note}" for note in adapter.settings.notes_for(model)]
    return notes


def _pages(decoder: Decoder, kv: str) -> int:
    return default_pages(decoder.config, dtype_name(str(decoder.dtype)), free_bytes_on(decoder.device), kv)


def _bounds(engine: Engine) -> list[str]:
    limits = engine.limits
    if limits.cache_tokens >= limits.context:
        return []
    return [
        f"The cache holds {limits.cache_tokens:,} tokens, less than the context of {limits.context:,}, and "
        "longer prompts are refused. Ask for more pages, or for a context to have it checked against memory."
    ]
