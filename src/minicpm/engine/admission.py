"""Refuses a request that could never be served, before anything is computed."""

from collections.abc import Iterator
from numbers import Integral
from typing import NamedTuple

from minicpm.engine.request import Request
from minicpm.errors import BadParameter, CapacityError, PromptTooLong


class Limits(NamedTuple):
    """What an engine can hold: tokens per sequence, by the model and by the pages, and its vocabulary."""

    context: int
    cache_tokens: int
    vocab: int

    @property
    def prompt_tokens(self) -> int:
        """The longest prompt that fits."""
        return min(self.context, self.cache_tokens)


def longest(request: Request, limits: Limits) -> int:
    """Most tokens the sequence may reach, prompt included; raises when the request can never fit.

    The last token is never fed, so a prompt that fills the context still predicts one.
    """
    problems = list(_problems(request, limits))
    if problems:
        raise BadParameter("The request is refused: " + "; ".join(problems) + ".")
    prompt, wanted = len(request.prompt_ids), request.params.max_tokens
    _check_prompt(prompt, limits)
    room = max(1, min(limits.context, limits.cache_tokens + 1) - prompt)
    if wanted is None:
        return prompt + room
    cached = min(prompt + wanted, limits.context) - 1
    if cached > limits.cache_tokens:
        raise CapacityError(
            f"A prompt of {prompt:,} tokens and max_tokens {wanted:,} need {cached:,} cached tokens, and the "
            f"cache holds {limits.cache_tokens:,}. Lower max_tokens or give the engine more pages."
        )
    return prompt + min(wanted, room)


def _check_prompt(prompt: int, limits: Limits) -> None:
    if prompt > limits.context:
        raise PromptTooLong(
            f"The prompt has {prompt:,} tokens and the context holds {limits.context:,}. Nothing is cut "
            f"unless you ask for it: shorten the prompt by {prompt - limits.context:,} tokens, load the "
            "model with a longer context if it has one, or let truncate=True drop the oldest turns of a chat."
        )
    if prompt > limits.cache_tokens:
        raise CapacityError(
            f"The prompt has {prompt:,} tokens and the cache holds {limits.cache_tokens:,}; the context is "
            f"{limits.context:,}. Give the engine more pages of memory or shorten the prompt."
        )


def _problems(request: Request, limits: Limits) -> Iterator[str]:
    params = request.params
    if not request.prompt_ids:
        yield "the prompt has no tokens, and the first token needs something to follow"
    used = {"prompt": request.prompt_ids, "logit_bias": params.logit_bias, "stop_ids": params.stop_ids}
    for name, ids in used.items():
        outside = [i for i in ids if not (isinstance(i, Integral) and 0 <= i < limits.vocab)]
        if outside:
            yield f"{name} holds {outside[0]!r}, and token ids are whole numbers from 0 to {limits.vocab - 1}"
    if params.stop and request.detokenizer is None:
        yield "stop strings need text, and this request has no detokenizer; use stop_ids"
