"""What a conversation becomes: token ids, and the images whose places are among them."""

from __future__ import annotations

from typing import NamedTuple


class PromptImage(NamedTuple):
    """An encoded image file; its token vectors stand at `start` and after it."""

    start: int
    data: bytes


class Prompt(NamedTuple):
    """Token ids and images, in order."""

    ids: list[int]
    images: tuple[PromptImage, ...] = ()
