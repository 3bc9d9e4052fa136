"""Text to token ids and back, exactly as a model's own fast tokenizer does it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from minicpm.errors import MessageError
from minicpm.text.control import TURN_MARKERS
from minicpm.text.decoding_steps import WORD_MARKER, read_steps
from minicpm.text.detokenizer import Detokenizer, TokenText
from minicpm.text.pieces import Piece, Spellings
from minicpm.text.token_bytes import TokenBytes
from minicpm.text.token_settings import TokenSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

    from minicpm.text.tokenizer_files import LoadedTokenizer


class Tokenizer:
    """Encodes and decodes for one model; immutable, and usable from several threads.

    `bos_id` is None where the model has none; `eos_ids` holds every id that ends an answer, from the
    tokenizer and from generation_config; `special_ids` maps each control spelling to its id; `names` gives
    the spellings of bos_token, eos_token and the other roles that the files name.
    """

    def __init__(self, loaded: LoadedTokenizer) -> None:
        self._backend = loaded.backend
        self._later = loaded.later
        self._flags = loaded.flags
        self.special_ids: Mapping[str, int] = MappingProxyType(dict(loaded.controls))
        self.spellings = Spellings(self.special_ids)
        self.vocab_size: int = loaded.vocab_size
        settings = loaded.settings
        self.bos_id = self.special_ids.get(settings.bos) if settings.bos else None
        self.names: Mapping[str, str] = MappingProxyType(settings.spelled)
        self.eos_ids = _end_ids(settings, self.special_ids)
        self.add_bos: bool = loaded.add_bos and self.bos_id is not None
        self._text = _token_text(loaded, self.eos_ids)

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        """Loads tokenizer.json, else tokenizer.model, with the settings beside it; raises TokenizerError."""
        from minicpm.text.tokenizer_files import load_folder

        return cls(load_folder(Path(path)))

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: no BOS, and no control id whatever the text spells. Raises MessageError."""
        return self._segments(self._backend, [text])[0]

    def encode_prompt(self, pieces: Iterable[Piece]) -> list[int]:
        """Ids of a prompt, with exactly one BOS where the model takes one or the pieces spell it."""
        ids: list[int] = []
        for piece, text_ids in self._encoded(_trimmed(pieces, self._flags)):
            ids += [self.special_ids[piece.text]] if piece.control else text_ids
        return self._with_one_bos(ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` without turn markers; equals a detokenizer fed with them."""
        detokenizer = self.detokenizer()
        return "".join([*map(detokenizer.push, ids), detokenizer.finish()])

    def broken_share(self, ids: Sequence[int]) -> float:
        """The share of ids that stand for no whole character: unknown ones, and single bytes of one.

        Text in a script that the vocabulary does not hold consists of little else.
        """
        unknown = self.special_ids.get(self.names.get("unk_token", ""))
        return sum(i == unknown or _is_broken(self._text.bytes_of(i)) for i in ids) / max(len(ids), 1)

    def detokenizer(self, *, continues: bool = False) -> Detokenizer:
        """A fresh incremental decoder; `continues` keeps a first space, for text that goes on."""
        return Detokenizer(self._text, continues=continues)

    def _encoded(self, pieces: Sequence[Piece]) -> Iterable[tuple[Piece, list[int]]]:
        """Each piece with its ids ([] for control); later text may be marked differently than the first."""
        encoded = iter(self._segments(self._later, [piece.text for piece in pieces if not piece.control]))
        for place, piece in enumerate(pieces):
            ids = [] if piece.control else next(encoded)
            if place == 0 and not piece.control and self._later is not self._backend:
                ids = self.encode(piece.text)
            yield piece, ids

    def _segments(self, backend: Backend, texts: Sequence[str]) -> list[list[int]]:
        try:
            encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError as error:
            raise MessageError(
                "The text holds a lone surrogate (half of a character pair), which has no UTF-8 form. "
                "Decode the text with the right encoding first."
            ) from error
        return [encoding.ids for encoding in encodings]

    def _with_one_bos(self, ids: list[int]) -> list[int]:
        if self.bos_id is None or not (self.add_bos or ids[:1] == [self.bos_id]):
            return ids
        start = next((i for i, token in enumerate(ids) if token != self.bos_id), len(ids))
        return [self.bos_id, *ids[start:]]


def _end_ids(settings: TokenSettings, controls: Mapping[str, int]) -> tuple[int, ...]:
    named = [controls[settings.eos]] if settings.eos is not None and settings.eos in controls else []
    turn_end = [controls["<|im_end|>"]] if "<|im_end|>" in controls else []
    return tuple(dict.fromkeys([*settings.eos_ids, *named, *turn_end]))


def _token_text(loaded: LoadedTokenizer, eos_ids: Sequence[int]) -> TokenText:
    hidden = {loaded.controls[s] for s in loaded.settings.named | TURN_MARKERS if s in loaded.controls}
    steps = read_steps(loaded.backend)
    return TokenText(
        bytes_of=TokenBytes(loaded.backend, steps),
        controls=frozenset(loaded.controls.values()),
        hidden=frozenset(hidden | set(eos_ids)),
        marks_first=_marks(loaded.backend),
        marks_later=_marks(loaded.later),
        replacements=steps.in_text,
    )


def _is_broken(piece: bytes) -> bool:
    """Whether bytes hold a part of a character."""
    try:
        piece.decode()
    except UnicodeDecodeError:
        return True
    return False


def _marks(backend: Backend) -> bool:
    """Whether a stretch of text gets a word marker in front."""
    tokens = backend.encode("a", add_special_tokens=False).tokens
    return bool(tokens) and tokens[0].startswith(WORD_MARKER)


def _trimmed(pieces: Iterable[Piece], flags: Mapping[str, tuple[bool, bool]]) -> list[Piece]:
    """Drops the white space that control tokens flagged lstrip / rstrip swallow, and empty stretches."""
    kept: list[Piece] = []
    for piece in pieces:
        strips_left = piece.control and flags[piece.text][0]
        if strips_left and kept and not kept[-1].control:
            kept.append(Piece(kept.pop().text.rstrip()))
        after_rstrip = bool(kept) and kept[-1].control and flags[kept[-1].text][1]
        text = piece.text.lstrip() if after_rstrip and not piece.control else piece.text
        kept.append(Piece(text, piece.control))
    return [piece for piece in kept if piece.text]
