"""The bytes that each token stands for, whatever alphabet its vocabulary is written in."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from minicpm.text.decoding_steps import DecodingSteps

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TokenBytes:
    """Maps a token id to its UTF-8 bytes; a token may hold part of a character."""

    def __init__(self, backend: Tokenizer, steps: DecodingSteps) -> None:
        self._backend = backend
        self._steps = steps
        self._added = {number: token.content for number, token in backend.get_added_tokens_decoder().items()}
        self._known: dict[int, bytes] = {}

    def __call__(self, token_id: int) -> bytes:
        """The bytes of one token; none for an id outside the vocabulary, as padded heads may yield."""
        data = self._known.get(token_id)
        if data is None:
            data = self._known[token_id] = self._look_up(token_id)
        return data

    def _look_up(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._backend.id_to_token(token_id) if 0 <= token_id < 1 << 32 else None
        if token is None:
            return b""
        if self._steps.byte_level:
            table = _byte_of_character()
            return b"".join(table.get(character) or character.encode() for character in token)
        if self._steps.byte_fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes.fromhex(token[3:5])
        for old, new in self._steps.in_tokens:
            token = token.replace(old, new)
        return token.encode()


@cache
def _byte_of_character() -> dict[str, bytes]:
    """The byte-level alphabet of GPT-2: printable Latin-1 for itself, the other bytes from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): bytes([byte]) for byte in printable}
    return table | {chr(0x100 + place): bytes([byte]) for place, byte in enumerate(others)}
