"""How the next token is chosen and when a request ends, as one checked value."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from minicpm.errors import BadParameter

MAX_STOPS = 1_000
MAX_STOP_CHARACTERS = 10_000
MAX_BIASES = 1_000


class _Range(NamedTuple):
    """The values a numeric field accepts: low..high, ends included unless `above` excludes the low one."""

    name: str
    low: float
    high: float
    whole: bool = False
    above: bool = False
    optional: bool = False


_RANGES = (
    _Range("temperature", 0, 100),
    _Range("top_k", 0, 2**31 - 1, whole=True),
    _Range("top_p", 0, 1, above=True),
    _Range("min_p", 0, 1),
    _Range("repetition_penalty", 0.01, 100),
    _Range("presence_penalty", -100, 100),
    _Range("frequency_penalty", -100, 100),
    _Range("seed", -(2**63), 2**64 - 1, whole=True, optional=True),
    _Range("n", 1, 64, whole=True),
    _Range("logprobs", 0, 100, whole=True, optional=True),
    _Range("prompt_logprobs", 0, 100, whole=True, optional=True),
    _Range("max_tokens", 1, 2**31 - 1, whole=True, optional=True),
    _Range("min_tokens", 0, 2**31 - 1, whole=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampling and stopping of one request; raises BadParameter that names every problem.

    Order of operations on a row of logits: logit_bias, repetition_penalty (prompt and output),
    frequency_penalty and presence_penalty (output only), min_tokens (stop ids masked), temperature,
    top_k, top_p over what top_k left, min_p relative to the likeliest token, draw.
    The order is that of transformers; ties with the last kept token are kept. temperature 0 takes the
    likeliest token after the penalties, the lowest id on ties. Log-probabilities are the model's own,
    before all of this.
    """

    temperature: float = 1.0
    """Divides the logits; 0 is greedy."""
    top_k: int = 0
    """Keeps the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keeps the smallest set of likeliest tokens whose probabilities reach this sum."""
    min_p: float = 0.0
    """Drops tokens less likely than this share of the likeliest one."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens seen in prompt or output."""
    presence_penalty: float = 0.0
    """Subtracted once from the logit of a token already written."""
    frequency_penalty: float = 0.0
    """Subtracted from the logit of a token for each time it was written."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these token ids; -inf forbids a token."""
    stop: Sequence[str] = ()
    """Ends the text before the first of these strings; one string is accepted too."""
    stop_ids: Sequence[int] = ()
    """Ends the text at any of these token ids."""
    seed: int | None = None
    """Makes draws repeatable, whatever shares the batch; sample i of n uses seed + i."""
    n: int = 1
    """Samples per prompt."""
    logprobs: int | None = None
    """Reports log-probabilities of written tokens and of this many alternatives."""
    prompt_logprobs: int | None = None
    """The same for the tokens of the prompt."""
    max_tokens: int | None = None
    """Most tokens to write; None: what the context leaves."""
    min_tokens: int = 0
    """Tokens to write before a stop may end the text."""
    ignore_eos: bool = False
    """Writes on past the model's own end tokens."""

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        problems = list(_problems(self))
        if problems:
            raise BadParameter("Sampling parameters are refused: " + "; ".join(problems) + ".")

    @classmethod
    def of(cls, options: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> "SamplingParams":
        """Parameters from named options over defaults; an unknown name raises BadParameter."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise BadParameter(
                f"Unknown sampling parameters: {', '.join(unknown)}. Known ones are: {', '.join(known)}."
            )
        return cls(**{**(defaults or {}), **options})

    @property
    def greedy(self) -> bool:
        """True when the likeliest token is taken instead of a draw."""
        return self.temperature == 0

    @property
    def plain(self) -> bool:
        """True when nothing changes the logits before the choice."""
        neutral = self.repetition_penalty == 1 and self.presence_penalty == 0 and self.frequency_penalty == 0
        return neutral and not self.logit_bias and self.min_tokens == 0


def _problems(params: SamplingParams) -> Iterator[str]:
    sound = True
    for limits in _RANGES:
        problem = _out_of_range(limits, getattr(params, limits.name))
        if problem:
            sound = False
            yield problem
    if not isinstance(params.ignore_eos, bool):
        yield f"ignore_eos must be true or false, not {params.ignore_eos!r}"
    if sound and params.max_tokens is not None and params.min_tokens > params.max_tokens:
        yield f"min_tokens {params.min_tokens} exceeds max_tokens {params.max_tokens}"
    yield from _stop_problems(params)
    yield from _bias_problems(params.logit_bias)


def _out_of_range(limits: _Range, value: object) -> str | None:
    if value is None and limits.optional:
        return None
    kinds = (int,) if limits.whole else (int, float)
    inside = isinstance(value, kinds) and not isinstance(value, bool) and limits.low <= value <= limits.high
    if inside and not (limits.above and value == limits.low):
        return None
    opening = "(" if limits.above else "["
    kind = "a whole number" if limits.whole else "a number"
    return f"{limits.name} must be {kind} in {opening}{limits.low}, {limits.high}], not {_shown(value)}"


def _stop_problems(params: SamplingParams) -> Iterator[str]:
    for name, kind in (("stop", str), ("stop_ids", int)):
        values = getattr(params, name)
        if not isinstance(values, (list, tuple)):
            yield f"{name} must be a list, not {_shown(values)}"
        elif len(values) > MAX_STOPS:
            yield f"{name} has {len(values):,} entries, at most {MAX_STOPS:,} are accepted"
        elif not all(isinstance(v, kind) and not isinstance(v, bool) for v in values):
            yield f"{name} must hold only {kind.__name__} values"
        elif kind is str:
            yield from _stop_text_problems(values)
        elif any(v < 0 for v in values):
            yield f"{name} must hold token ids, not {min(values)}"


def _stop_text_problems(stops: Sequence[str]) -> Iterator[str]:
    characters = sum(map(len, stops))
    if "" in stops:
        yield "stop holds an empty string, which would end every text at once"
    if characters > MAX_STOP_CHARACTERS:
        yield f"stop strings hold {characters:,} characters, at most {MAX_STOP_CHARACTERS:,} are accepted"


def _bias_problems(biases: object) -> Iterator[str]:
    if not isinstance(biases, Mapping):
        yield f"logit_bias must map token ids to numbers, not {_shown(biases)}"
        return
    if len(biases) > MAX_BIASES:
        yield f"logit_bias has {len(biases):,} entries, at most {MAX_BIASES:,} are accepted"
        return
    wrong = [f"{_shown(t)}: {_shown(b)}" for t, b in biases.items() if not _is_bias(t, b)]
    if wrong:
        yield f"logit_bias entries must be a token id and a number below infinity, not {', '.join(wrong[:5])}"


def _is_bias(token: object, bias: object) -> bool:
    whole = isinstance(token, int) and not isinstance(token, bool) and token >= 0
    number = isinstance(bias, (int, float)) and not isinstance(bias, bool)
    return whole and number and not math.isnan(bias) and bias < math.inf  # type: ignore[arg-type,operator]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
