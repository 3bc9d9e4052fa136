"""Checks, from small files alone, that a folder's tokenizer cannot produce ids outside the embedding."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from minicpm.checkpoint.files import inside, read_object, shown
from minicpm.config import ModelConfig
from minicpm.errors import TokenizerMismatch


def check_tokenizer(folder: Path, config: ModelConfig, generation: Mapping[str, Any]) -> None:
    """Raise TokenizerMismatch when an id of the tokenizer or a special id is not below `config.vocab`.

    A smaller tokenizer is fine: published embeddings are often padded. A folder without one passes.
    """
    problems = [
        f"its {where} has id {highest}" for where, highest in _highest_ids(folder) if highest >= config.vocab
    ]
    problems += [
        f"{name} is {value}" for name, value in _special_ids(config, generation) if value >= config.vocab
    ]
    if problems:
        raise TokenizerMismatch(
            f"The tokenizer of {shown(str(folder))} does not fit its weights: the embedding has "
            f"{config.vocab} rows, ids 0 to {config.vocab - 1}, but {' and '.join(problems)}. Such a token "
            "would have no embedding; take the tokenizer files and config.json from the same repository as "
            "the weights."
        )


def _highest_ids(folder: Path) -> Iterator[tuple[str, int]]:
    fast = inside(folder, "tokenizer.json")
    if fast is not None:
        yield "tokenizer.json", max(_fast_ids(read_object(fast)), default=-1)
        return
    pieces = inside(folder, "tokenizer.model")
    if pieces is not None:
        yield "tokenizer.model", count_pieces(pieces.read_bytes()) - 1
    settings = inside(folder, "tokenizer_config.json")
    if settings is not None:
        added = read_object(settings).get("added_tokens_decoder")
        keys = added if isinstance(added, dict) else {}
        yield (
            "tokenizer_config.json",
            max((int(key) for key in keys if key.isascii() and key.isdigit()), default=-1),
        )


def _fast_ids(tokenizer: Mapping[str, Any]) -> Iterator[int]:
    model = tokenizer.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, dict):
        yield from (value for value in vocab.values() if isinstance(value, int))
    elif isinstance(vocab, list):
        yield len(vocab) - 1
    added = tokenizer.get("added_tokens")
    for token in added if isinstance(added, list) else []:
        if isinstance(token, dict) and isinstance(token.get("id"), int):
            yield token["id"]


def _special_ids(config: ModelConfig, generation: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    named = [("bos_token_id", config.bos), ("pad_token_id", config.pad)]
    named += [("eos_token_id", value) for value in config.eos]
    yield from ((f"{name} in config.json", value) for name, value in named if value is not None)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = generation.get(name)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int) and not isinstance(item, bool):
                yield f"{name} in generation_config.json", item


def count_pieces(model: bytes) -> int:
    """Number of pieces in a SentencePiece model: occurrences of field 1 at the top of its protocol buffer.

    Damage ends the count early; reading the tokenizer itself reports it.
    """
    count, position = 0, 0
    while position < len(model):
        tag, position = _varint(model, position)
        field, kind = tag >> 3, tag & 7
        count += field == 1 and kind == 2
        length, start = _varint(model, position) if kind == 2 else (0, position)
        if kind == 0:
            start = _varint(model, position)[1]
        position = start + length + {1: 8, 5: 4}.get(kind, 0)
    return count


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A protocol-buffer integer at `position`, and the position after it."""
    value = shift = 0
    while position < len(data) and shift < 64:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            break
    return value, position
