"""How answers are made: thinking, sampling, truncation; changed while talking."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, get_args, get_type_hints

from minicpm.cli.lazy import nearest
from minicpm.cli.options import field_docs, plain_type
from minicpm.engine.sampling import SamplingParams
from minicpm.errors import BadInput
from minicpm.text.chat import Thinking

SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "stop",
    "seed",
    "max_tokens",
    "min_tokens",
    "ignore_eos",
)
"""Fields of SamplingParams that a person may want to set; the others are for programs."""

SAMPLING_PANEL = "Sampling (where nothing is given, as the model's own settings say)"
DEFAULT = "default"
_THINKING: tuple[Thinking, ...] = get_args(Thinking)
_YES_NO = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}


class ThinkingChoice(StrEnum):
    """`Thinking` as a command line takes it."""

    on = "on"
    off = "off"
    auto = "auto"


class Settings:
    """Sampling holds only what was chosen; the rest is the model's own default."""

    def __init__(
        self,
        *,
        thinking: Thinking = "auto",
        truncate: bool = False,
        sampling: Mapping[str, Any] | None = None,
        adapter: str | None = None,
    ) -> None:
        self.thinking = thinking
        self.truncate = truncate
        self.adapter = adapter
        self.sampling = dict(sampling or {})
        SamplingParams(**self.sampling)

    def chat_options(self) -> dict[str, Any]:
        """What ChatModel.chat takes besides the messages."""
        truncate = {"truncate": True} if self.truncate else {}
        return {"thinking": self.thinking, **truncate, **self.text_options()}

    def text_options(self) -> dict[str, Any]:
        """What Model.stream takes besides the text."""
        adapter = {} if self.adapter is None else {"adapter": self.adapter}
        return {**adapter, **self.sampling}

    def set(self, key: str, text: str) -> None:
        """Sets one value from text, "default" for the model's own; BadInput or BadParameter if wrong."""
        key = key.replace("-", "_")
        if key == "thinking":
            self.thinking = _one_of(text, _THINKING)
        elif key == "truncate":
            self.truncate = _yes_no(key, text)
        elif key not in SAMPLING:
            near = nearest(key, known())
            raise BadInput(f"There is no setting {key!r}.{near} Known ones: {', '.join(known())}.")
        elif text == DEFAULT:
            self.sampling.pop(key, None)
        else:
            changed = self.sampling | {key: _parsed(key, text)}
            SamplingParams(**changed)
            self.sampling = changed

    def described(self) -> list[tuple[str, str, str]]:
        """(key, value, what it is) of every setting."""
        docs = field_docs(SamplingParams)
        rows = [(key, str(self.sampling.get(key, DEFAULT)), docs[key]) for key in SAMPLING]
        return [
            ("thinking", self.thinking, "Thinks before it answers: on, off or auto (as it does by itself)."),
            (
                "truncate",
                "on" if self.truncate else "off",
                "Lets the oldest turns go when the context is full.",
            ),
            *rows,
        ]

    def saved(self) -> dict[str, Any]:
        """For a file."""
        return {"thinking": self.thinking, "truncate": self.truncate, "sampling": self.sampling}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Takes over what `saved()` gave, checked; what is missing stays."""
        if (thinking := saved.get("thinking")) is not None:
            self.thinking = _one_of(str(thinking), _THINKING)
        if isinstance(truncate := saved.get("truncate"), bool):
            self.truncate = truncate
        if isinstance(sampling := saved.get("sampling"), dict):
            kept = {key: value for key, value in sampling.items() if key in SAMPLING}
            SamplingParams(**kept)
            self.sampling = kept


def known() -> list[str]:
    """Names that `set` accepts."""
    return ["thinking", "truncate", *SAMPLING]


def _parsed(key: str, text: str) -> Any:
    kind = plain_type(get_type_hints(SamplingParams)[key])
    if kind is bool:
        return _yes_no(key, text)
    if kind == list[str]:
        return (text.replace("\\n", "\n"),)
    try:
        return kind(text)
    except ValueError as error:
        wanted = "a whole number" if kind is int else "a number"
        raise BadInput(f"{key} takes {wanted}, not {text!r}.") from error


def _yes_no(key: str, text: str) -> bool:
    if text.lower() not in _YES_NO:
        raise BadInput(f"{key} is either on or off, not {text!r}.")
    return _YES_NO[text.lower()]


def _one_of(text: str, allowed: tuple[Thinking, ...]) -> Thinking:
    for value in allowed:
        if text == value:
            return value
    raise BadInput(f"thinking is one of {', '.join(allowed)}, not {text!r}.")
