"""Builds and describes tokenizers of the `tokenizers` library, with our errors for its faults."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from minicpm.errors import TokenizerError
from minicpm.text.token_settings import AddedSpelling

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend


def from_json(text: str, origin: str) -> Backend:
    """The tokenizer that a tokenizer.json describes; raises TokenizerError, which names `origin`."""
    from tokenizers import Tokenizer

    if text.startswith("version https://git-lfs"):
        raise TokenizerError(
            f"{origin} is a Git-LFS pointer: the file itself was never fetched. "
            "Run `git lfs pull` in the folder."
        )
    try:
        return Tokenizer.from_str(text)
    except BaseException as error:
        # The library raises plain Exception for most defects, and its panics are not even that.
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise TokenizerError(
            f"{origin} is not a usable tokenizer: {error}. "
            "Fetch the file again from where the model was published."
        ) from error


def check_ids(backend: Backend, path: Path) -> None:
    """Raises TokenizerError where two tokens share an id."""
    model, count = backend.model, backend.get_vocab_size(with_added_tokens=False)
    if all(model.id_to_token(number) is not None for number in range(count)):
        return  # as many ids as tokens; a table of them would stay in the process's memory
    ids = Counter(backend.get_vocab(with_added_tokens=False).values())
    shared = sorted(number for number, count in ids.items() if count > 1)
    if shared:
        raise TokenizerError(
            f"{path} gives {len(shared)} ids to two tokens each, such as {shared[:5]}, so text has no "
            "certain ids. Fetch the file again from where the model was published."
        )


def added_token(token: AddedSpelling | AddedToken, *, special: bool) -> AddedToken:
    """The library's form of a declared token."""
    from tokenizers import AddedToken

    return AddedToken(
        token.content,
        special=special,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        single_word=token.single_word,
    )
