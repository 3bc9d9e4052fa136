"""Makes a tokenizer unable to write control tokens from plain text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from minicpm.errors import TokenizerError
from minicpm.text.backend import added_token, from_json
from minicpm.text.control import is_control
from minicpm.text.token_settings import TokenSettings

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend


def promote_controls(backend: Backend, settings: TokenSettings) -> list[int]:
    """Flags every control token special, so that the backend can be told to leave them alone in text."""
    named = settings.named | settings.special
    for spelling in sorted(settings.named):
        number = backend.token_to_id(spelling)
        if number is not None and number not in backend.get_added_tokens_decoder():
            _declare(backend, spelling)
    added = backend.get_added_tokens_decoder()
    controls = [n for n, t in added.items() if is_control(t.content, special=t.special, named=named)]
    plain = [added_token(added[n], special=True) for n in controls if not added[n].special]
    if plain:
        backend.add_special_tokens(plain)
    return controls


def _declare(backend: Backend, spelling: str) -> None:
    from tokenizers import AddedToken

    backend.add_special_tokens([AddedToken(spelling, special=True, normalized=False)])


def without_paths_to(controls: Iterable[int], backend: Backend) -> Backend:
    """The same tokenizer without merges that would let typed text grow into a control token."""
    added = backend.get_added_tokens_decoder()
    if not _reached(backend, controls, added):
        return backend
    spellings = {added[number].content for number in controls}
    description: dict[str, Any] = json.loads(backend.to_str())
    merges = description["model"].get("merges", [])
    description["model"]["merges"] = [merge for merge in merges if _joined(merge) not in spellings]
    rebuilt = from_json(json.dumps(description), "the tokenizer without merges into control tokens")
    left = _reached(rebuilt, controls, added)
    if left:
        raise TokenizerError(
            f"The tokenizer turns the plain text {added[left[0]].content!r} into control token {left[0]}, so "
            "users could forge turns. Use the tokenizer that was published with the model."
        )
    return rebuilt


def _reached(backend: Backend, controls: Iterable[int], added: Mapping[int, AddedToken]) -> list[int]:
    backend.encode_special_tokens = True
    texts = {number: (added[number].content, "a" + added[number].content) for number in controls}
    reached = [
        number
        for number, tries in texts.items()
        if any(number in backend.encode(text, add_special_tokens=False).ids for text in tries)
    ]
    backend.encode_special_tokens = False
    return reached


def _joined(merge: str | list[str]) -> str:
    return "".join(merge.split(" ") if isinstance(merge, str) else merge)
