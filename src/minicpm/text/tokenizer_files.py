"""Opens the tokenizer of a model folder, in either of its two file forms."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpm.errors import TokenizerError
from minicpm.text.control import is_control
from minicpm.text.json_files import read_text
from minicpm.text.sentencepiece import read_sentencepiece
from minicpm.text.sentencepiece_bpe import build_bpe
from minicpm.text.token_settings import AddedSpelling, TokenSettings, read_settings

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend


@dataclass(frozen=True, slots=True)
class LoadedTokenizer:
    """A backend that treats every control spelling in text as text, with what its files say.

    `later` encodes the stretches of text after the first; it differs from `backend` only where the word
    marker is put before the first stretch alone. `flags` gives (lstrip, rstrip) of each control spelling.
    """

    backend: Backend
    later: Backend
    settings: TokenSettings
    controls: Mapping[str, int]
    flags: Mapping[str, tuple[bool, bool]]
    vocab_size: int
    add_bos: bool


def load_folder(folder: Path) -> LoadedTokenizer:
    """Loads tokenizer.json, else tokenizer.model; raises TokenizerError."""
    settings = read_settings(folder)
    backend = _backend(folder, settings)
    _add(backend, settings, folder)
    settings = _with_usual_names(settings, backend)
    controls = _promote_controls(backend, settings)
    backend = _without_paths_to(controls, backend)
    backend.encode_special_tokens = True
    added = backend.get_added_tokens_decoder()
    return LoadedTokenizer(
        backend=backend,
        later=_later(backend),
        settings=settings,
        controls={added[number].content: number for number in controls},
        flags={added[number].content: (added[number].lstrip, added[number].rstrip) for number in controls},
        vocab_size=max(backend.get_vocab_size(with_added_tokens=False), max(added, default=-1) + 1),
        add_bos=_adds_bos(backend, settings),
    )


def _backend(folder: Path, settings: TokenSettings) -> Backend:
    fast = folder / "tokenizer.json"
    text = read_text(fast)
    if text is not None:
        backend = _from_json(text, str(fast))
        _check_ids(backend, fast)
        return backend
    model = folder / "tokenizer.model"
    if not model.exists():
        raise TokenizerError(
            f"{folder} holds neither tokenizer.json nor tokenizer.model, so text cannot become tokens. "
            "Fetch the tokenizer files of the model into this folder."
        )
    pieces = read_sentencepiece(model).renamed({token.id: token.content for token in settings.added})
    return build_bpe(pieces, legacy=settings.legacy)


def _from_json(text: str, origin: str) -> Backend:
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


def _check_ids(backend: Backend, path: Path) -> None:
    ids = Counter(backend.get_vocab(with_added_tokens=False).values())
    shared = sorted(number for number, count in ids.items() if count > 1)
    if shared:
        raise TokenizerError(
            f"{path} gives {len(shared)} ids to two tokens each, such as {shared[:5]}, so text has no certain "
            "ids. Fetch the file again from where the model was published."
        )


def _add(backend: Backend, settings: TokenSettings, folder: Path) -> None:
    """Adds what tokenizer_config declares and the file lacks; each must get the id it was declared with."""
    known = backend.get_added_tokens_decoder()
    missing = [token for token in settings.added if token.id not in known]
    for token in missing:
        backend.add_tokens([_added_token(token, special=token.special)])
    wrong = [t for t in settings.added if backend.token_to_id(t.content) != t.id]
    if wrong:
        listed = ", ".join(
            f"{t.content!r} {backend.token_to_id(t.content)} (declared {t.id})" for t in wrong[:5]
        )
        raise TokenizerError(
            f"The tokenizer of {folder} and its tokenizer_config.json disagree on the ids of {len(wrong)} "
            f"tokens: {listed}. Fetch both files from one place."
        )


def _added_token(token: AddedSpelling | AddedToken, *, special: bool) -> AddedToken:
    from tokenizers import AddedToken

    return AddedToken(
        token.content,
        special=special,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        single_word=token.single_word,
    )


def _with_usual_names(settings: TokenSettings, backend: Backend) -> TokenSettings:
    """Where no file names BOS, end and unknown, the family's spellings do, if the tokenizer adds them."""
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    usual = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
    for role, spelling in usual.items():
        if getattr(settings, role) is None and spelling in added:
            settings = replace(settings, **{role: spelling})  # type: ignore[arg-type]
    return settings


def _promote_controls(backend: Backend, settings: TokenSettings) -> list[int]:
    """Flags every control token special, so that the backend can be told to leave them alone in text."""
    named = settings.named | settings.special
    for spelling in sorted(settings.named):
        number = backend.token_to_id(spelling)
        if number is not None and number not in backend.get_added_tokens_decoder():
            _declare(backend, spelling)
    added = backend.get_added_tokens_decoder()
    controls = [n for n, t in added.items() if is_control(t.content, special=t.special, named=named)]
    plain = [_added_token(added[n], special=True) for n in controls if not added[n].special]
    if plain:
        backend.add_special_tokens(plain)
    return controls


def _declare(backend: Backend, spelling: str) -> None:
    from tokenizers import AddedToken

    backend.add_special_tokens([AddedToken(spelling, special=True, normalized=False)])


def _without_paths_to(controls: Iterable[int], backend: Backend) -> Backend:
    """The same tokenizer without merges that would let typed text grow into a control token."""
    added = backend.get_added_tokens_decoder()
    if not _reached(backend, controls, added):
        return backend
    spellings = {added[number].content for number in controls}
    description: dict[str, Any] = json.loads(backend.to_str())
    merges = description["model"].get("merges", [])
    description["model"]["merges"] = [merge for merge in merges if _joined(merge) not in spellings]
    rebuilt = _from_json(json.dumps(description), "the tokenizer without merges into control tokens")
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


def _later(backend: Backend) -> Backend:
    """A twin that puts no word marker in front, where the marker belongs to the first stretch only."""
    from tokenizers import Tokenizer

    description = json.loads(backend.pre_tokenizer.__getstate__()) if backend.pre_tokenizer else {}
    steps = description.get("pretokenizers", [description])
    if not any(step.get("type") == "Metaspace" and step.get("prepend_scheme") == "first" for step in steps):
        return backend
    whole = json.loads(backend.to_str())
    for step in whole["pre_tokenizer"].get("pretokenizers", [whole["pre_tokenizer"]]):
        if step.get("type") == "Metaspace":
            step["prepend_scheme"] = "never"
    twin: Backend = Tokenizer.from_str(json.dumps(whole))
    twin.encode_special_tokens = True
    return twin


def _adds_bos(backend: Backend, settings: TokenSettings) -> bool:
    """The configuration decides; where it is silent, the template of the tokenizer's post-processing."""
    if settings.add_bos is not None:
        return settings.add_bos
    description = json.loads(backend.post_processor.__getstate__()) if backend.post_processor else {}
    steps = description.get("processors", [description])
    starts = [
        step["single"][0] for step in steps if step.get("type") == "TemplateProcessing" and step["single"]
    ]
    return settings.bos in [start.get("SpecialToken", {}).get("id") for start in starts]
