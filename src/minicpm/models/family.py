"""What the package knows of a family beyond its numbers."""

from collections.abc import Callable
from dataclasses import dataclass

from minicpm.config import ModelConfig, RawConfig


@dataclass(frozen=True, slots=True)
class Family:
    """A group of checkpoints that share a parser, a chat template and a tool dialect.

    `template` and `dialect` name the built-in ones, used where a checkpoint carries no template.
    """

    name: str
    title: str
    architectures: tuple[str, ...]
    model_types: tuple[str, ...]
    template: str
    dialect: str
    parse: Callable[[RawConfig], ModelConfig]
