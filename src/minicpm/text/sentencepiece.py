"""Reads a SentencePiece `.model` file: its pieces, scores and kinds, without the sentencepiece package."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from minicpm.errors import TokenizerError
from minicpm.text.json_files import read_bytes
from minicpm.text.protobuf import as_float, fields

MAX_BYTES = 64 << 20
MAX_PIECES = 1 << 21
_UNIGRAM, _BPE = 1, 2


class Kind(IntEnum):
    """SentencePiece.Type of sentencepiece_model.proto."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class SentencePieces:
    """The vocabulary in id order: piece, score and kind, each of one length."""

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    kinds: tuple[Kind, ...]

    def of_kind(self, *kinds: Kind) -> list[str]:
        """The pieces of these kinds, in id order."""
        return [piece for piece, kind in zip(self.pieces, self.kinds, strict=True) if kind in kinds]

    def renamed(self, names: Mapping[int, str]) -> SentencePieces:
        """The same vocabulary with the spellings that a configuration gives to reserved pieces."""
        pieces = list(self.pieces)
        for number, name in names.items():
            if number < len(pieces) and self.kinds[number] is Kind.USER_DEFINED and name not in self.pieces:
                pieces[number] = name
        return replace(self, pieces=tuple(pieces))


def read_sentencepiece(path: Path) -> SentencePieces:
    """Parses `path`; raises TokenizerError where it is damaged or of a kind no MiniCPM model uses."""
    data = read_bytes(path, MAX_BYTES)
    if data is None:
        raise TokenizerError(f"{path} does not exist.")
    try:
        return _model(data)
    except ValueError as error:
        raise TokenizerError(
            f"{path} is not a usable SentencePiece model: {error}. "
            "Fetch the file again, or use a tokenizer.json."
        ) from error


def _model(data: bytes) -> SentencePieces:
    entries: list[tuple[str, float, Kind]] = []
    model_type = _UNIGRAM
    for number, value in fields(data):
        if number == 1 and isinstance(value, bytes):
            entries.append(_piece(value))
        elif number == 2 and isinstance(value, bytes):
            model_type = _last_int(value, 3, _UNIGRAM)
        elif number == 3 and isinstance(value, bytes):
            _check_normalizer(value)
        if len(entries) > MAX_PIECES:
            raise ValueError(f"it has more than {MAX_PIECES} pieces")
    if model_type != _BPE:
        raise ValueError(f"its model type is {model_type}, and only BPE ({_BPE}) is supported")
    return _checked(entries)


def _piece(message: bytes) -> tuple[str, float, Kind]:
    piece, score, kind = "", 0.0, Kind.NORMAL
    for number, value in fields(message):
        if number == 1 and isinstance(value, bytes):
            piece = value.decode("utf-8")
        elif number == 2:
            score = as_float(value)
        elif number == 3 and isinstance(value, int):
            kind = Kind(value)
    if not math.isfinite(score):
        raise ValueError(f"piece {piece!r} has the score {score}")
    return piece, score, kind


def _last_int(message: bytes, wanted: int, default: int) -> int:
    values = [value for number, value in fields(message) if number == wanted]
    last = values[-1] if values else default
    return last if isinstance(last, int) else default


def _check_normalizer(message: bytes) -> None:
    """MiniCPM's normaliser is the identity; a character map would change text unseen."""
    for number, value in fields(message):
        if number == 2 and value:
            raise ValueError("it carries a character normalisation map, which is not supported")


def _checked(entries: list[tuple[str, float, Kind]]) -> SentencePieces:
    pieces, scores, kinds = zip(*entries, strict=True) if entries else ((), (), ())
    if not pieces or "" in pieces:
        raise ValueError("it has no pieces" if not pieces else "it has an empty piece")
    if len(set(pieces)) != len(pieces):
        raise ValueError(f"{len(pieces) - len(set(pieces))} pieces appear twice")
    if kinds.count(Kind.UNKNOWN) != 1:
        raise ValueError(f"it has {kinds.count(Kind.UNKNOWN)} unknown pieces instead of one")
    return SentencePieces(tuple(pieces), tuple(scores), tuple(kinds))
