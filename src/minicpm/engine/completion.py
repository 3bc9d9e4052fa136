"""Continues plain prompts and scores texts on an engine."""

import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from minicpm.engine.answer import usage
from minicpm.engine.engine import Engine
from minicpm.engine.request import FinishReason, Request, TokenScore
from minicpm.engine.sampling import SamplingParams
from minicpm.engine.stream import Result, Stream
from minicpm.errors import BadParameter, QueueFull
from minicpm.text.events import Timings, Usage
from minicpm.text.pieces import Piece
from minicpm.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Completion:
    """One sample for one prompt; `prompt` and `sample` say which.

    logprobs and prompt_logprobs are None unless asked for; usage counts all samples of the prompt.
    """

    prompt: int
    sample: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[TokenScore, ...] | None
    prompt_logprobs: tuple[TokenScore | None, ...] | None
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class Score:
    """Natural-log probabilities of a text's tokens, each given all before; None for the first."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]

    @property
    def total(self) -> float:
        """Log-probability of the whole text."""
        return math.fsum(logprob for logprob in self.logprobs if logprob is not None)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability of the scored tokens."""
        return math.exp(-self.total / (len(self.logprobs) - 1))


class Completer:
    """Token ids in, completions out; several prompts share batches."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer) -> None:
        self._engine = engine
        self._tokenizer = tokenizer

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        adapter: str | None = None,
    ) -> list[Completion]:
        """Completions in the order of prompts, then samples; a refused prompt stops all of them."""
        listed: list[str | Sequence[int]] = [prompts] if isinstance(prompts, str) else [*prompts]
        with ExitStack() as open_streams:
            streams = [open_streams.enter_context(self.stream(p, params, adapter=adapter)) for p in listed]
            results = [stream.result() for stream in streams]
        return [c for i, result in enumerate(results) for c in _completions(i, result)]

    def stream(
        self, prompt: str | Sequence[int], params: SamplingParams, *, adapter: str | None = None
    ) -> Stream:
        """The tokens of one prompt as they are written; waits while the engine accepts no more requests."""
        request = Request(
            self.ids(prompt), params, lambda: self._tokenizer.detokenizer(continues=True), adapter
        )
        while True:
            try:
                return self._engine.submit(request)
            except QueueFull:
                self._engine.step()

    def score(self, text: str | Sequence[int], *, adapter: str | None = None) -> Score:
        """Log-probabilities of a text, which must fit the context."""
        ids = self.ids(text)
        if len(ids) < 2:
            raise BadParameter(
                f"A score needs at least two tokens, and the text has {len(ids)}. Give more text."
            )
        params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
        with self.stream(ids, params, adapter=adapter) as stream:
            scores = stream.result().prompt_scores
        assert scores is not None, "prompt log-probabilities were asked for"
        return Score(tuple(ids), tuple(None if s is None else s.logprob for s in scores))

    def ids(self, prompt: str | Sequence[int]) -> list[int]:
        """Token ids of a prompt; text gets the model's BOS, ids are taken as they are."""
        if isinstance(prompt, str):
            return self._tokenizer.encode_prompt([Piece(prompt)])
        if not isinstance(prompt, Iterable):
            raise BadParameter(
                f"A prompt is text or a list of token ids, not {prompt!r}. Give a list of prompts."
            )
        return list(prompt)


def _completions(prompt: int, result: Result) -> list[Completion]:
    return [
        Completion(
            prompt=prompt,
            sample=index,
            text=sample.text,
            token_ids=sample.token_ids,
            finish_reason=sample.finish_reason or "abort",
            logprobs=sample.scores,
            prompt_logprobs=result.prompt_scores,
            usage=usage(result),
            timings=Timings(result.prefill_s, result.decode_s),
        )
        for index, sample in enumerate(result.samples)
    ]
