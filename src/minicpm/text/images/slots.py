"""Holds the places of images in a prompt: a private character while it is rendered, control tokens after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from minicpm.errors import MessageError, TemplateError, TokenizerError
from minicpm.text.messages import Turn
from minicpm.text.pieces import Piece
from minicpm.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """How a prompt holds an image: control tokens `start`, then `patch` `count` times, then `end`."""

    start: str
    patch: str
    end: str
    count: int

    def pieces(self) -> list[Piece]:
        """The control spellings of one image."""
        spelled = [self.start, *[self.patch] * self.count, self.end]
        return [Piece(text, control=True) for text in spelled]

    def places(self, ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
        """Position of the first patch of each image in a prompt's ids."""
        start = tokenizer.special_ids[self.start]
        return [place + 1 for place, token in enumerate(ids) if token == start]


def require_images_read(slots: ImageFormat | None, images: int, tokenizer: Tokenizer) -> None:
    """Refuses images where none can be read: MessageError for the model, TokenizerError for its files."""
    if not images:
        return
    if slots is None:
        raise MessageError(
            f"{images} images were given, and this model reads text only. Leave them out, or use a model "
            "that sees, such as MiniCPM-V or OmniLMM."
        )
    missing = [text for text in (slots.start, slots.patch, slots.end) if text not in tokenizer.special_ids]
    if missing:
        raise TokenizerError(
            f"The tokenizer has no control tokens {', '.join(missing)}, which hold the place of an image. "
            "Use the tokenizer files that were published with the model."
        )


def written(turns: Iterable[Turn]) -> list[Turn]:
    """The turns without their images, whose URLs may be long and are never part of a prompt's text."""
    return [{key: value for key, value in turn.items() if key != "images"} for turn in turns]


def with_slots(turn: Turn, slot: str) -> Turn:
    """The turn with its images as slots before its text, each on its own line, as these models learned it."""
    lines = f"{slot}\n" * len(turn.get("images", ()))
    (plain,) = written([turn])
    return plain | {"content": lines + turn["content"]}


def expanded(pieces: Iterable[Piece], slot: str, slots: ImageFormat, *, images: int) -> list[Piece]:
    """The pieces with control tokens in place of every slot.

    Raises TemplateError where the template did not write all of them.
    """
    found = list(_expanded(pieces, slot, slots.pieces()))
    seen = sum(piece == Piece(slots.start, control=True) for piece in found)
    if seen != images:
        raise TemplateError(
            f"The chat template wrote {seen} of {images} images into the prompt, so images cannot be used "
            "with it. Remove chat_template to use the built-in format."
        )
    return found


def _expanded(pieces: Iterable[Piece], slot: str, image: list[Piece]) -> Iterator[Piece]:
    for piece in pieces:
        if piece.control:
            yield piece
            continue
        first, *rest = piece.text.split(slot)
        yield Piece(first)
        for text in rest:
            yield from image
            yield Piece(text)
