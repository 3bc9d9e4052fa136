"""Numbers of a model's metadata, with the key named in every complaint."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from minicpm.checkpoint.files import listed, shown
from minicpm.checkpoint.gguf.names import ARCHITECTURES
from minicpm.checkpoint.gguf.reading import GgufFile
from minicpm.checkpoint.gguf.values import Value
from minicpm.config import RawConfig
from minicpm.errors import BadConfig, BadInput, UnknownModel, UnreadConfig

ARCHITECTURE = "general.architecture"
_KIND = "general.type"
_PARTS = "split.count"


def architecture_of(file: GgufFile) -> str:
    """What the file says it is, one of `ARCHITECTURES`.

    Raises UnknownModel for another, and BadInput for a file that is no model or only a part of one.
    """
    name = shown(str(file.path))
    kind, parts = file.metadata.get(_KIND, "model"), file.metadata.get(_PARTS, 1)
    if kind != "model":
        raise BadInput(
            f"{name} is no model: its {_KIND} is {shown(repr(kind), 60)}. Give the file of a whole model; a "
            "LoRA is used here in the layout of PEFT."
        )
    if type(parts) is not int or parts > 1:
        raise BadInput(
            f"{name} is one of several files of a model: its {_PARTS} is {shown(repr(parts), 60)}. Join them "
            "first, with llama.cpp: `llama-gguf-split --merge FIRST_PART WHOLE.gguf`."
        )
    found = file.metadata.get(ARCHITECTURE)
    if found not in ARCHITECTURES:
        raise UnknownModel(
            f"{name} holds a model of the architecture {shown(repr(found), 60)} ({ARCHITECTURE}). Known are "
            f"{', '.join(ARCHITECTURES)}. It is not loaded as something similar, because that gives wrong "
            "answers silently."
        )
    return str(found)


class Keys:
    """The metadata under one prefix; what is wrong is collected, and so is what nobody read."""

    def __init__(self, metadata: Mapping[str, Value], prefix: str, path: Path) -> None:
        self._file = shown(str(path))
        own = {
            key: neat(value) if isinstance(value, float) else value
            for key, value in metadata.items()
            if key.startswith(f"{prefix}.")
        }
        self._prefix = prefix
        self._raw = RawConfig(own, where="metadata")

    def has(self, key: str) -> bool:
        """True when the key is there."""
        return self._raw.has(self._full(key))

    def integer(self, key: str, default: int | None = None, *, most: int = 2**20) -> int:
        """A whole number from 1 to `most`; 1 stands for one that was refused."""
        return self._raw.integer(self._full(key), default, most=most)

    def number(self, key: str, default: float | None = None) -> float:
        """A positive number, the shortest that rounds to the float32 in the file."""
        return self._raw.number(self._full(key), default)

    def text(self, key: str, default: str) -> str:
        """Text."""
        return self._raw.text(self._full(key), default)

    def token(self, key: str) -> int | None:
        """A token id, or None."""
        return self._raw.token(self._full(key), None)

    def expect(self, key: str, value: object, why: str) -> None:
        """Accept the key with this value only, or absent."""
        self._raw.expect(self._full(key), (value,), why)

    def ignore(self, *keys: str) -> None:
        """Take keys as known and without effect."""
        self._raw.ignore(*map(self._full, keys))

    def problem(self, text: str) -> None:
        """Note what else is wrong."""
        self._raw.problem(text)

    def finish(self) -> None:
        """Raise BadConfig with all problems, else UnreadConfig with all keys that nobody read."""
        self.require_sound()
        if self._raw.unread:
            raise UnreadConfig(
                f"The metadata of {self._file} has keys that nothing here reads: {listed(self._raw.unread)}. "
                "Loading it anyway could ignore part of the model, so it is refused. Use a version that "
                "supports them."
            )

    def require_sound(self) -> None:
        """Raise BadConfig with all problems; keys that nobody read are left alone."""
        problems = list(dict.fromkeys(map(shown, self._raw.problems)))
        if problems:
            raise BadConfig(
                f"The metadata of {self._file} cannot be used: {'; '.join(problems)}. Convert the "
                "model again, or fetch the file again."
            )

    def _full(self, key: str) -> str:
        return f"{self._prefix}.{key}"


def neat(value: float) -> float:
    """The number that was meant by a float32: of all that round to it, the one with the fewest digits."""
    with np.errstate(over="ignore"):
        single = np.float32(value)
    return float(str(single)) if float(single) == value else value


def neat_list(values: Sequence[float]) -> list[float]:
    """`neat` of each."""
    return [neat(value) for value in values]
