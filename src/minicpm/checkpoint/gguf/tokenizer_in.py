"""The vocabulary in a GGUF file's metadata, as the tokenizer files of the published layout."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from minicpm.checkpoint.files import shown
from minicpm.checkpoint.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from minicpm.checkpoint.gguf.values import Value
from minicpm.errors import TokenizerError, TokenizerMismatch
from minicpm.text.sentencepiece import Kind, SentencePieces
from minicpm.text.sentencepiece_bpe import WORD_MARKER, build_bpe

_PREFIX = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"
_ROLES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
# What llama.cpp takes for the roles of a SentencePiece vocabulary whose file does not say.
_USUAL = {"bos": 1, "eos": 2, "unknown": 0}
# Ways to cut a token grow with the square of its length; published vocabularies stay below a tenth of this.
_MOST_CUTS = 1 << 27
T = TypeVar("T")


def tokenizer_files(metadata: Mapping[str, Value], vocab: int) -> dict[str, str]:
    """Names and texts of the files that make the tokenizer; `vocab` is the number of rows of the embedding.

    Empty for a file without a vocabulary. The chat template is copied as text and nothing of it is run.
    Raises TokenizerError, naming the key, for what is missing or of the wrong type, TokenizerMismatch for
    a vocabulary of another size.
    """
    kind = metadata.get(f"{_PREFIX}model", "none")
    if kind in ("none", "no_vocab"):
        return {}
    reader = _Vocabulary(metadata, vocab)
    match kind:
        case "llama":
            tokenizer, adds_bos = _sentencepiece(reader), True
        case "gpt2":
            pre = reader.pre_tokenizer()
            tokenizer, adds_bos = _byte_level(reader, pre), pre.adds_bos
        case _:
            raise _unusable("model", f"is {shown(repr(kind), 60)}, where llama or gpt2 is known")
    settings = _settings(reader, kind == "llama", reader.flag("add_bos_token", adds_bos))
    files = {"tokenizer.json": json.dumps(tokenizer, ensure_ascii=False)}
    return files | _templates(metadata, settings)


class _Vocabulary:
    """The lists of tokens with their kinds, checked, without the unused tokens at the end."""

    def __init__(self, metadata: Mapping[str, Value], vocab: int) -> None:
        self._metadata = metadata
        tokens = self.list_of("tokens", str)
        if len(tokens) != vocab:
            raise TokenizerMismatch(
                f"{_PREFIX}tokens lists {len(tokens)} tokens, and the embedding has {vocab} rows. The two do "
                "not belong together; fetch or convert the file again."
            )
        self._count = len(tokens)
        numbers = self.list_of("token_type", int) if self.has("token_type") else [1] * len(tokens)
        kinds = [self._kind(number) for number in numbers]
        used = max((place for place, kind in enumerate(kinds) if kind is not Kind.UNUSED), default=-1) + 1
        self.tokens, self.kinds = tokens[:used], kinds[:used]
        if len(set(self.tokens)) != used or "" in self.tokens:
            raise _unusable("tokens", "holds an empty token, or one twice")

    def _kind(self, number: int) -> Kind:
        try:
            return Kind(number)
        except ValueError as error:
            raise _unusable("token_type", f"holds {number}, where 1 to 6 are known") from error

    def has(self, key: str) -> bool:
        return _PREFIX + key in self._metadata

    def list_of(self, key: str, kind: type[T]) -> list[T]:
        """A list of this kind, as long as the tokens where these are known."""
        value = self._metadata.get(_PREFIX + key)
        if not isinstance(value, list) or not all(type(item) is kind for item in value):
            raise _unusable(key, f"is {_what(value)}, where a list of {kind.__name__} is needed")
        if key not in ("tokens", "merges") and len(value) != self._count:
            raise _unusable(key, f"has {len(value)} entries for {self._count} tokens")
        return value  # type: ignore[return-value]

    def flag(self, key: str, default: bool) -> bool:
        value = self._metadata.get(_PREFIX + key, default)
        if not isinstance(value, bool):
            raise _unusable(key, f"is {_what(value)}, where true or false is needed")
        return value

    def spelling(self, role: str, default: int | None) -> str | None:
        """The token of a role, by its id; None where there is none."""
        value = self._metadata.get(f"{_PREFIX}{role}_token_id", default)
        if value is None:
            return None
        if type(value) is not int or not 0 <= value < len(self.tokens):
            raise _unusable(f"{role}_token_id", f"is {_what(value)}, where an id of a token is needed")
        return self.tokens[value]

    def scores(self) -> list[float]:
        scores = self.list_of("scores", float)
        if not all(abs(score) < float("inf") for score in scores):
            raise _unusable("scores", "holds NaN or infinity")
        return scores[: len(self.tokens)]

    def pre_tokenizer(self) -> PreTokenizer:
        name = self._metadata.get(f"{_PREFIX}pre")
        if name not in PRE_TOKENIZERS:
            raise _unusable(
                "pre", f"is {_what(name)}, where only {', '.join(PRE_TOKENIZERS)} say here how text is cut"
            )
        return PRE_TOKENIZERS[str(name)]


def _sentencepiece(vocabulary: _Vocabulary) -> dict[str, Any]:
    from tokenizers import AddedToken

    if sum(len(token) ** 2 for token in vocabulary.tokens) > _MOST_CUTS:
        raise _unusable("tokens", "holds tokens that are longer than any model's")
    kinds = list(vocabulary.kinds)
    if kinds.count(Kind.UNKNOWN) != 1:
        unknown = vocabulary.spelling("unknown", 0)
        kinds = [Kind.NORMAL if kind is Kind.UNKNOWN else kind for kind in kinds]
        kinds[vocabulary.tokens.index(str(unknown))] = Kind.UNKNOWN
    pieces = SentencePieces(tuple(vocabulary.tokens), tuple(vocabulary.scores()), tuple(kinds))
    backend = build_bpe(pieces, legacy=True)
    defined = pieces.of_kind(Kind.USER_DEFINED)
    backend.add_tokens([AddedToken(piece, normalized=False, special=False) for piece in defined])
    tokenizer: dict[str, Any] = json.loads(backend.to_str())
    if not vocabulary.flag("add_space_prefix", True):
        tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": WORD_MARKER}
        tokenizer["decoder"]["decoders"] = [
            step for step in tokenizer["decoder"]["decoders"] if step["type"] != "Strip"
        ]
    return tokenizer


def _byte_level(vocabulary: _Vocabulary, pre: PreTokenizer) -> dict[str, Any]:
    merges = [_merge(merge) for merge in vocabulary.list_of("merges", str)]
    ids = {token: number for number, token in enumerate(vocabulary.tokens)}
    unknown = next(({*merge, "".join(merge)} - ids.keys() for merge in merges if _foreign(merge, ids)), None)
    if unknown:
        raise _unusable("merges", f"joins what is no token: {shown(repr(min(unknown)), 60)}")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": number, "content": token, **flags, "special": kind is not Kind.USER_DEFINED}
        for number, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
        if kind in (Kind.CONTROL, Kind.USER_DEFINED, Kind.UNKNOWN)
    ]
    alphabet = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": pre.description,
        "post_processor": None,
        "decoder": alphabet,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre.whole,
            "vocab": ids,
            "merges": [list(merge) for merge in merges],
        },
    }


def _merge(text: str) -> tuple[str, str]:
    """Two tokens with a space between; neither is empty, and the first may begin with one."""
    cut = text.find(" ", 1)
    if cut < 0 or cut + 1 == len(text):
        raise _unusable("merges", f"holds {shown(repr(text), 60)}, where two tokens are needed")
    return text[:cut], text[cut + 1 :]


def _foreign(merge: tuple[str, str], ids: Mapping[str, int]) -> bool:
    return not (merge[0] in ids and merge[1] in ids and merge[0] + merge[1] in ids)


def _settings(vocabulary: _Vocabulary, is_sentencepiece: bool, adds_bos: bool) -> dict[str, Any]:
    usual = _USUAL if is_sentencepiece else {}
    named = {name: vocabulary.spelling(role, usual.get(role)) for role, name in _ROLES.items()}
    return {
        "tokenizer_class": "LlamaTokenizer" if is_sentencepiece else "PreTrainedTokenizerFast",
        "add_bos_token": adds_bos,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "legacy": True,
        **{name: spelling for name, spelling in named.items() if spelling is not None},
    }


def _templates(metadata: Mapping[str, Value], settings: dict[str, Any]) -> dict[str, str]:
    """tokenizer_config.json, with the template in it where there is a second one for tools."""
    usual, tools = metadata.get(_TEMPLATE), metadata.get(f"{_TEMPLATE}.tool_use")
    files: dict[str, str] = {}
    if isinstance(usual, str) and isinstance(tools, str):
        named = {"default": usual, "tool_use": tools}
        settings["chat_template"] = [{"name": name, "template": text} for name, text in named.items()]
    elif isinstance(usual, str) and usual:
        files["chat_template.jinja"] = usual
    return files | {"tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False)}


def _what(value: object) -> str:
    if value is None:
        return "missing"
    return "a list of other things" if isinstance(value, list) else shown(repr(value), 60)


def _unusable(key: str, what: str) -> TokenizerError:
    return TokenizerError(
        f"{_PREFIX}{key} {what}. The file's tokenizer cannot be used; fetch or convert the file again."
    )
