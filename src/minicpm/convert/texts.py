"""Turns a text, of a file or of the package, into sequences of token ids that a model reads whole."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from minicpm.cache import Batch
from minicpm.checkpoint.files import readable, shown
from minicpm.errors import BadInput
from minicpm.text.pieces import Piece
from minicpm.text.tokenizer import Tokenizer

BUILT_IN = "builtin"
"""The name of the package's own texts, which nano's generator wrote: one to calibrate with, one held out."""
LENGTH = 512
"""Tokens of one sequence, unless a model's context is shorter."""
_TOGETHER = 1024
"""Tokens of a batch: enough to multiply well, few beside a layer in memory."""
_FEWEST_TOKENS, _SHORTEST = 256, 8
_MOST_BROKEN = 0.3
_MOST_BYTES = 256 << 20
_ASSETS = Path(__file__).resolve().parent.parent / "assets" / "calibration"
_FILES = {"calibration": "calibration.jsonl", "comparison": "heldout.jsonl"}


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """Token ids int64 [T] of sequences that each start a text of their own, and where they come from.

    `counted`, bool [T] for each, says which tokens a comparison predicts, as the answers of conversations;
    without it all.
    """

    ids: tuple[Tensor, ...]
    name: str
    counted: tuple[Tensor, ...] | None = None

    @property
    def tokens(self) -> int:
        """Of all sequences."""
        return sum(map(len, self.ids))

    @property
    def mask(self) -> Tensor:
        """Which tokens of all sequences are counted, bool [tokens]; never the first of one."""
        firsts = torch.cat([torch.arange(len(ids)) == 0 for ids in self.ids])
        return ~firsts if self.counted is None else torch.cat(self.counted) & ~firsts

    def batches(self) -> Iterator[Batch]:
        """Neighbouring sequences of about a thousand tokens together, without a cache."""
        held: list[Tensor] = []
        for ids in self.ids:
            if held and sum(map(len, held)) + len(ids) > _TOGETHER:
                yield Batch.of_sequences(*held)
                held = []
            held.append(ids)
        yield Batch.of_sequences(*held)

    @property
    def digest(self) -> str:
        """sha256 of the ids and of where sequences end."""
        total = hashlib.sha256()
        for ids in self.ids:
            total.update(len(ids).to_bytes(8, "little") + ids.numpy().tobytes())
        return total.hexdigest()


def read_sequences(
    source: str | Path, tokenizer: Tokenizer, *, purpose: str, length: int = LENGTH, tokens: int | None = None
) -> Sequences:
    """Up to `tokens` tokens of a text, in sequences of up to `length` that begin with BOS if there is one.

    `source` is "builtin" or a file: one text, or JSON lines with a "text" each, of which every one begins a
    sequence. `purpose` is "calibration"
    or "comparison". Raises BadInput for what cannot be read, is empty, too short, binary, or written in a
    script that the model's vocabulary does not hold.
    """
    assert length > 1, "a sequence needs a token to predict another"
    texts, name = [text for text in _texts(source, purpose) if text.strip()], str(source)
    if not texts:
        raise BadInput(
            f"The {purpose} text {shown(name)} is empty, so nothing can be measured with it. Give a text "
            f"like what the model is used for, or {BUILT_IN}."
        )
    encoded = [tokenizer.encode_prompt([Piece(text)]) for text in texts]
    _check(list(chain.from_iterable(encoded)), tokenizer, name, purpose)
    windows = chain.from_iterable(_windows(ids, tokenizer, length) for ids in encoded)
    return Sequences(tuple(_first(windows, tokens)), name)


def _windows(ids: Sequence[int], tokenizer: Tokenizer, length: int) -> Iterator[Tensor]:
    """A text in pieces that each begin with BOS if it does, without one too short to predict much in it."""
    start = [tokenizer.bos_id] if tokenizer.bos_id is not None and ids[0] == tokenizer.bos_id else []
    body, room = ids[len(start) :], length - len(start)
    for first in range(0, len(body), room):
        window = [*start, *body[first : first + room]]
        if len(window) >= _SHORTEST:
            yield torch.tensor(window, dtype=torch.int64)


def _first(windows: Iterator[Tensor], tokens: int | None) -> Iterator[Tensor]:
    """As many as have `tokens` tokens, the last of them cut."""
    left = tokens
    for window in windows:
        if left is None or left >= len(window):
            yield window
        elif left >= _SHORTEST:
            yield window[:left]
        left = None if left is None else max(left - len(window), 0)


def _check(ids: Sequence[int], tokenizer: Tokenizer, name: str, purpose: str) -> None:
    if (broken := tokenizer.broken_share(ids)) > _MOST_BROKEN:
        raise BadInput(
            f"{broken:.0%} of the tokens of the {purpose} text {shown(name)} are single bytes or unknown: "
            "the model's vocabulary does not hold its language or script, so it says nothing about the "
            f"model's use. Give a text in the model's own languages, or {BUILT_IN}."
        )
    if len(ids) < _FEWEST_TOKENS:
        raise BadInput(
            f"The {purpose} text {shown(name)} has {len(ids)} tokens, and fewer than {_FEWEST_TOKENS} say "
            f"nothing reliable. Give more text, or {BUILT_IN}."
        )


def _texts(source: str | Path, purpose: str) -> list[str]:
    path = _ASSETS / _FILES[purpose] if source == BUILT_IN else Path(source)
    content = _read(path, purpose)
    return _lines(content, path, purpose) if path.suffix == ".jsonl" else [content]


def _read(path: Path, purpose: str) -> str:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise BadInput(
            f"The {purpose} text {shown(str(path))} {what}. Give a file of UTF-8 text or JSON lines, or "
            f"{BUILT_IN}."
        )
    with readable(path):
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise BadInput(
                f"The {purpose} text {shown(str(path))} has {size:,} bytes, more than the {_MOST_BYTES:,} "
                "that are read. Cut out a part of it; some megabytes are plenty."
            )
        content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_text(path, purpose, f"byte {error.start} is no UTF-8") from error
    if "\0" in text:
        raise _not_text(path, purpose, f"byte {content.index(0)} is zero")
    return text


def _not_text(path: Path, purpose: str, why: str) -> BadInput:
    return BadInput(
        f"{shown(str(path))} is not UTF-8 text ({why}), so it cannot be the {purpose} text. Give a text "
        f"file, or {BUILT_IN}."
    )


def _lines(content: str, path: Path, purpose: str) -> list[str]:
    texts = []
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            texts.append(_text_of(line, number, path, purpose))
    return texts


def _text_of(line: str, number: int, path: Path, purpose: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"Line {number} of {shown(str(path))} is not valid JSON ({shown(str(error))}). Each line of the "
            f'{purpose} text is to be an object with a "text".'
        ) from error
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise BadInput(
            f'Line {number} of {shown(str(path))} has no "text" that is a string. Each line of the {purpose} '
            'text is to be an object such as {"text": "..."}.'
        )
    return text
