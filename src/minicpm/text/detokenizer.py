"""Token ids to text, one id at a time, without ever showing a broken character."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenText:
    """What a detokenizer needs of a vocabulary.

    `controls` are all control ids, `hidden` those of them that are not shown. `marks_later` tells that the
    encoder put a word marker in front of text after a control token, so that the decoder takes it away.
    """

    bytes_of: Callable[[int], bytes]
    controls: frozenset[int]
    hidden: frozenset[int]
    marks_first: bool
    marks_later: bool


class Detokenizer:
    """The exact inverse of encoding, fed piecewise: the texts of all pushes and of `finish` are the whole.

    Time and memory per push do not grow with what came before. Bytes that are no UTF-8 become U+FFFD.
    """

    def __init__(self, vocabulary: TokenText, *, continues: bool = False) -> None:
        self._vocabulary = vocabulary
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._drop_marker = vocabulary.marks_first and not continues

    def push(self, token_id: int) -> str:
        """The text that this id completes; "" while a character is still open."""
        if token_id in self._vocabulary.controls:
            return self._control(token_id)
        data = self._vocabulary.bytes_of(token_id)
        if self._drop_marker:
            data = data.removeprefix(b" ")
            self._drop_marker = False
        return self._utf8.decode(data)

    def finish(self) -> str:
        """The rest: U+FFFD for a character that was never completed."""
        return self._utf8.decode(b"", True)

    def _control(self, token_id: int) -> str:
        self._drop_marker = self._vocabulary.marks_later
        rest = self._utf8.decode(b"", True)
        if token_id in self._vocabulary.hidden:
            return rest
        return rest + self._vocabulary.bytes_of(token_id).decode()
