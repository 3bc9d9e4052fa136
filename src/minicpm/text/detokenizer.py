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
    `replacements` are made in the text of each stretch between control tokens, in order.
    """

    bytes_of: Callable[[int], bytes]
    controls: frozenset[int]
    hidden: frozenset[int]
    marks_first: bool
    marks_later: bool
    replacements: tuple[tuple[str, str], ...] = ()


class Detokenizer:
    """The exact inverse of encoding, fed piecewise: the texts of all pushes and of `finish` are the whole.

    Time and memory per push do not grow with what came before. Bytes that are no UTF-8 become U+FFFD.
    """

    def __init__(self, vocabulary: TokenText, *, continues: bool = False) -> None:
        self._vocabulary = vocabulary
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._replacers = [_Replacer(old, new) for old, new in vocabulary.replacements]
        self._drop_marker = vocabulary.marks_first and not continues

    def push(self, token_id: int) -> str:
        """The text that this id completes; "" while a character is still open."""
        if token_id in self._vocabulary.controls:
            return self._control(token_id)
        data = self._vocabulary.bytes_of(token_id)
        if self._drop_marker:
            data = data.removeprefix(b" ")
            self._drop_marker = False
        text = self._utf8.decode(data)
        for replacer in self._replacers:
            text = replacer.push(text)
        return text

    def finish(self) -> str:
        """The rest: U+FFFD for a character that was never completed."""
        text = self._utf8.decode(b"", True)
        for replacer in self._replacers:
            text = replacer.push(text) + replacer.finish()
        return text

    def _control(self, token_id: int) -> str:
        self._drop_marker = self._vocabulary.marks_later
        rest = self.finish()
        if token_id in self._vocabulary.hidden:
            return rest
        return rest + self._vocabulary.bytes_of(token_id).decode()


class _Replacer:
    """str.replace on text that arrives in pieces; holds back what may begin an occurrence."""

    def __init__(self, old: str, new: str) -> None:
        self._old = old
        self._new = new
        self._held = ""

    def push(self, text: str) -> str:
        if not (self._held or self._old[0] in text):
            return text
        *parts, last = (self._held + text).split(self._old)
        longest = min(len(last), len(self._old) - 1)
        held = next((n for n in range(longest, 0, -1) if self._old.startswith(last[-n:])), 0)
        self._held = last[len(last) - held :]
        return self._new.join([*parts, last[: len(last) - held]])

    def finish(self) -> str:
        rest, self._held = self._held, ""
        return rest
