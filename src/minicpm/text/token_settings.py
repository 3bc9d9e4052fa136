"""What the files beside a tokenizer say of it: named tokens, added tokens, BOS and end ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minicpm.errors import TokenizerError
from minicpm.text.json_files import read_object

_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True, slots=True)
class AddedSpelling:
    """An entry of `added_tokens_decoder`: a token that the configuration adds to the vocabulary."""

    id: int
    content: str
    special: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    single_word: bool


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """Spellings by role (`None`: not stated), added tokens in id order, and the flags of the encoder."""

    bos: str | None
    eos: str | None
    unk: str | None
    pad: str | None
    add_bos: bool | None
    legacy: bool
    added: tuple[AddedSpelling, ...]
    special: frozenset[str]
    eos_ids: tuple[int, ...]

    @property
    def named(self) -> frozenset[str]:
        """The spellings that play a role."""
        return frozenset(self.spelled.values())

    @property
    def spelled(self) -> dict[str, str]:
        """Role names as templates know them to spellings, for the roles that have one."""
        roles = zip(_NAMES, (self.bos, self.eos, self.unk, self.pad), strict=True)
        return {name: spelling for name, spelling in roles if spelling is not None}


def read_settings(folder: Path) -> TokenSettings:
    """Reads tokenizer_config, special_tokens_map, added_tokens and the end ids of (generation_)config."""
    config = read_object(folder / "tokenizer_config.json")
    mapped = read_object(folder / "special_tokens_map.json")
    names = {name: _spelling(config.get(name, mapped.get(name))) for name in _NAMES}
    return TokenSettings(
        bos=names["bos_token"],
        eos=names["eos_token"],
        unk=names["unk_token"],
        pad=names["pad_token"],
        add_bos=_flag(config.get("add_bos_token")),
        legacy=config.get("legacy") is not False,
        added=_added(config, read_object(folder / "added_tokens.json"), folder),
        special=_special_list(config) | _special_list(mapped),
        eos_ids=_end_ids(folder),
    )


def _spelling(value: Any) -> str | None:
    """A named token is written as text or as {"content": text, ...}."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) and content else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _special_list(config: Mapping[str, Any]) -> frozenset[str]:
    listed = config.get("additional_special_tokens")
    spellings = [_spelling(entry) for entry in listed] if isinstance(listed, list) else []
    return frozenset(spelling for spelling in spellings if spelling is not None)


def _added(config: Mapping[str, Any], plain: Mapping[str, Any], folder: Path) -> tuple[AddedSpelling, ...]:
    decoder = config.get("added_tokens_decoder", {})
    if not isinstance(decoder, dict):
        raise TokenizerError(f"added_tokens_decoder in {folder}/tokenizer_config.json is not an object.")
    found = {
        entry.id: entry for entry in (_added_entry(key, value, folder) for key, value in decoder.items())
    }
    for content, number in plain.items():
        if isinstance(number, int) and number not in found:
            found[number] = AddedSpelling(number, content, False, False, False, False, False)
    return tuple(found[number] for number in sorted(found))


def _added_entry(key: str, value: Any, folder: Path) -> AddedSpelling:
    content = _spelling(value)
    if content is None or not (key.isascii() and key.isdigit() and len(key) < 10):
        raise TokenizerError(
            f"added_tokens_decoder in {folder}/tokenizer_config.json has the entry {key!r}: {value!r}, "
            "which names no token. Fetch the file again."
        )
    flags = value if isinstance(value, dict) else {}
    names = ("special", "lstrip", "rstrip", "normalized", "single_word")
    return AddedSpelling(int(key), content, *(flags.get(name) is True for name in names))


def _end_ids(folder: Path) -> tuple[int, ...]:
    """End ids of generation_config.json, then of config.json; either may be one id or a list."""
    ids: list[int] = []
    for name in ("generation_config.json", "config.json"):
        value = read_object(folder / name).get("eos_token_id")
        ids += [n for n in (value if isinstance(value, list) else [value]) if type(n) is int and n >= 0]
    return tuple(dict.fromkeys(ids))
