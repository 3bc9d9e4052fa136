"""A request, and the sequences of tokens that answer it."""

import secrets
from array import array
from collections.abc import Callable
from collections.abc import Sequence as Listing
from dataclasses import dataclass, field
from typing import Literal

from minicpm.engine.images import NumberedImage, PlacedImage, identity
from minicpm.engine.sampling import SamplingParams
from minicpm.engine.writer import Detokenizer

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True)
class Request:
    """Token ids to continue, and how; text and stop strings need a detokenizer for every sample.

    `adapter` names the adapter to compute with; None is the model itself. `images` stand in the prompt.
    """

    prompt_ids: Listing[int]
    params: SamplingParams = field(default_factory=SamplingParams)
    detokenizer: Callable[[], Detokenizer] | None = None
    adapter: str | None = None
    images: tuple[PlacedImage, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenScore:
    """The model's natural-log probability of one token, and the likeliest alternatives, likeliest first."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True, eq=False)
class Sequence:
    """One sample of a request while it lives: its tokens, and where they are cached.

    `order` is its place in line (request number, sample index); `limit` the most tokens, prompt included.
    `handle` is None while nothing of it is cached; `cached` counts prompt tokens that were not recomputed.
    """

    order: tuple[int, int]
    tokens: "array[int]"
    prompt_length: int
    params: SamplingParams
    limit: int
    stop_ids: frozenset[int]
    seed: int
    adapter: str | None = None
    images: tuple[NumberedImage, ...] = ()
    handle: int | None = None
    cached: int = 0
    finish_reason: FinishReason | None = None
    prompt_scores: dict[int, TokenScore] = field(default_factory=dict)

    @property
    def identity(self) -> "array[int]":
        """What of it must equal another sequence's for their cached tokens to be the same."""
        return identity(self.tokens, self.images) if self.images else self.tokens

    @property
    def generated(self) -> int:
        """Tokens written so far."""
        return len(self.tokens) - self.prompt_length

    @property
    def unscored(self) -> bool:
        """True while prompt log-probabilities are wanted of this sample and not all known."""
        wanted = self.params.prompt_logprobs is not None and self.order[1] == 0
        return wanted and len(self.prompt_scores) < self.prompt_length - 1

    @property
    def finished(self) -> bool:
        """True when no more tokens will be written."""
        return self.finish_reason is not None


def sequences(
    request: Request,
    number: int,
    *,
    limit: int,
    eos_ids: frozenset[int],
    images: tuple[NumberedImage, ...] = (),
) -> list[Sequence]:
    """The n sequences of a request, in order; only the first one scores the prompt."""
    params = request.params
    seed = secrets.randbits(63) if params.seed is None else params.seed
    ends = frozenset(params.stop_ids) | (frozenset() if params.ignore_eos else eos_ids)
    return [
        Sequence(
            order=(number, index),
            tokens=array("i", request.prompt_ids),
            prompt_length=len(request.prompt_ids),
            params=params,
            limit=limit,
            stop_ids=ends,
            seed=(seed + index) % 2**64,
            adapter=request.adapter,
            images=images,
        )
        for index in range(params.n)
    ]
