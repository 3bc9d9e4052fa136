"""Opens the tokenizer of a model folder, in either of its two file forms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from minicpm.errors import TokenizerError
from minicpm.text.backend import added_token, check_ids, from_json
from minicpm.text.control_guard import promote_controls, without_paths_to
from minicpm.text.json_files import read_text
from minicpm.text.sentencepiece import read_sentencepiece
from minicpm.text.sentencepiece_bpe import build_bpe
from minicpm.text.token_settings import TokenSettings, read_settings

if TYPE_CHECKING:
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
    controls = promote_controls(backend, settings)
    backend = without_paths_to(controls, backend)
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
        backend = from_json(text, str(fast))
        check_ids(backend, fast)
        return backend
    model = folder / "tokenizer.model"
    if not model.exists():
        raise TokenizerError(
            f"{folder} holds neither tokenizer.json nor tokenizer.model, so text cannot become tokens. "
            "Fetch the tokenizer files of the model into this folder."
        )
    pieces = read_sentencepiece(model).renamed({token.id: token.content for token in settings.added})
    return build_bpe(pieces, legacy=settings.legacy)


def _add(backend: Backend, settings: TokenSettings, folder: Path) -> None:
    """Adds what tokenizer_config declares and the file lacks; each must get the id it was declared with."""
    known = backend.get_added_tokens_decoder()
    missing = [token for token in settings.added if token.id not in known]
    for token in missing:
        backend.add_tokens([added_token(token, special=token.special)])
    wrong = [t for t in settings.added if backend.token_to_id(t.content) != t.id]
    if wrong:
        listed = ", ".join(
            f"{t.content!r} {backend.token_to_id(t.content)} (declared {t.id})" for t in wrong[:5]
        )
        raise TokenizerError(
            f"The tokenizer of {folder} and its tokenizer_config.json disagree on the ids of {len(wrong)} "
            f"tokens: {listed}. Fetch both files from one place."
        )


def _with_usual_names(settings: TokenSettings, backend: Backend) -> TokenSettings:
    """Where no file names BOS, end and unknown, the family's spellings do, if the tokenizer adds them."""
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    usual = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
    for role, spelling in usual.items():
        if getattr(settings, role) is None and spelling in added:
            settings = replace(settings, **{role: spelling})  # type: ignore[arg-type]
    return settings


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
