"""The tokenizer of a model folder as metadata of GGUF; one that llama.cpp would not follow is refused."""

import json
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minicpm.checkpoint.files import shown
from minicpm.checkpoint.gguf.pre_tokenizers import name_of, patterns_of
from minicpm.checkpoint.gguf.tokenizer_in import tokenizer_files
from minicpm.checkpoint.gguf.values import Typed, Value, boolean, f32s, i32s, string, strings, u32
from minicpm.config import ModelConfig
from minicpm.errors import TokenizerError
from minicpm.models import registry
from minicpm.text.json_files import read_object
from minicpm.text.sentencepiece import Kind
from minicpm.text.sentencepiece_bpe import WORD_MARKER
from minicpm.text.template_files import read_own_template
from minicpm.text.tokenizer import Tokenizer
from minicpm.text.tokenizer_files import LoadedTokenizer, load_folder

# What families whose folders may leave it to the reader are spoken to by. Without one llama.cpp writes
# ChatML, which those that call tools have; of 128k nothing else in the file says that it is spoken to so.
_TEMPLATES = {
    "minicpm-v1": (
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<用户>' + "
        "message['content'].strip() + '<AI>' }}{% else %}{{ message['content'].strip() }}{% endif %}"
        "{% endfor %}"
    ),
    "chatml": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
        "'<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
        "{% endif %}"
    ),
}
_TRIALS = 20_000


def tokenizer_metadata(folder: Path, config: ModelConfig, ends: Sequence[int]) -> dict[str, Typed]:
    """All keys of the vocabulary, of the ids that begin and end texts, and of the chat template.

    `ends` are the ids that end an answer. Raises TokenizerError for a tokenizer that cuts or merges text in a
    way that llama.cpp has no name for; text would get other ids there.
    """
    loaded = load_folder(folder)
    entries = _entries(loaded, _special(folder), config.vocab)
    description: dict[str, Any] = json.loads(loaded.backend.to_str())
    model = description["model"]
    if model.get("type") != "BPE":
        raise _refused(folder, f"it is of the kind {model.get('type')}, where BPE is needed")
    merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in model["merges"]]
    if patterns_of(description.get("pre_tokenizer")) is not None:
        values = _byte_level(folder, description, entries, merges)
    else:
        values = _sentencepiece(folder, description, entries, merges)
        _require_same(folder, loaded, values, config.vocab)
    keys = values | _roles(loaded, config, ends) | {"add_bos_token": boolean(loaded.add_bos)}
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()} | _templates(folder, config)


@dataclass(frozen=True, slots=True)
class _Entries:
    """Every token with its kind, in id order, one for each row of the embedding."""

    tokens: list[str]
    kinds: list[Kind]
    added: frozenset[str]

    def typed(self) -> dict[str, Typed]:
        return {"tokens": strings(self.tokens), "token_type": i32s([int(kind) for kind in self.kinds])}


def _special(folder: Path) -> Mapping[str, bool]:
    """Whether a file declares a token special, by its spelling; loading makes more of them so."""
    listed = read_object(folder / "tokenizer.json").get("added_tokens")
    declared = read_object(folder / "tokenizer_config.json").get("added_tokens_decoder")
    entries = [*(listed or ()), *(declared.values() if isinstance(declared, dict) else ())]
    return {entry["content"]: entry.get("special") is True for entry in entries if isinstance(entry, dict)}


def _entries(loaded: LoadedTokenizer, special: Mapping[str, bool], vocab: int) -> _Entries:
    backend, named = loaded.backend, loaded.settings.named
    added = {number: token.content for number, token in backend.get_added_tokens_decoder().items()}
    tokens: list[str] = []
    kinds: list[Kind] = []
    for number in range(vocab):
        token = added.get(number) or backend.id_to_token(number)
        tokens.append(f"[PAD{number}]" if token is None else token)
        if token is None:
            kinds.append(Kind.UNUSED)
        elif token == loaded.settings.unk:
            kinds.append(Kind.UNKNOWN)
        elif number in added:
            steers = special.get(token, True) or token in named or _looks_special(token)
            kinds.append(Kind.CONTROL if steers else Kind.USER_DEFINED)
        else:
            kinds.append(Kind.BYTE if _is_byte(token) else Kind.NORMAL)
    return _Entries(tokens, kinds, frozenset(added.values()))


def _looks_special(token: str) -> bool:
    """As llama.cpp's converter takes them."""
    return token.startswith("<|") and token.endswith("|>")


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _byte_level(
    folder: Path, description: Mapping[str, Any], entries: _Entries, merges: Sequence[tuple[str, ...]]
) -> dict[str, Typed]:
    whole = description["model"].get("ignore_merges") is True
    name = name_of(description["pre_tokenizer"], whole=whole)
    if name is None or description.get("normalizer"):
        patterns = patterns_of(description["pre_tokenizer"])
        raise _refused(folder, f"it cuts text by {shown(str(patterns))}, for which llama.cpp has no name")
    kinds: list[Kind] = [Kind.NORMAL if kind is Kind.BYTE else kind for kind in entries.kinds]
    typed = _Entries(entries.tokens, kinds, entries.added).typed()
    joined = strings([" ".join(merge) for merge in merges])
    return {"model": string("gpt2"), "pre": string(name), **typed, "merges": joined}


def _sentencepiece(
    folder: Path, description: Mapping[str, Any], entries: _Entries, merges: Sequence[tuple[str, ...]]
) -> dict[str, Typed]:
    prefix = _puts_marker(description)
    if prefix is None:
        raise _refused(folder, "it prepares text in a way of its own")
    first: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        first.setdefault("".join(merge), rank)
    # llama.cpp joins what scores highest, so the order of merges is the order of scores.
    last = len(merges)
    scores = [-float(first.get(token, last + number)) for number, token in enumerate(entries.tokens)]
    return {
        "model": string("llama"),
        "pre": string("default"),
        **entries.typed(),
        "scores": f32s(scores),
        "add_space_prefix": boolean(prefix),
    }


def _puts_marker(description: Mapping[str, Any]) -> bool | None:
    """Whether every stretch of text gets a word marker in front; None for any other way to prepare it."""
    normalizer = description.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    kinds = [(step.get("type"), step.get("prepend", step.get("content"))) for step in steps]
    replace, prepend = ("Replace", WORD_MARKER), ("Prepend", WORD_MARKER)
    if description.get("pre_tokenizer") or kinds not in ([replace], [prepend, replace]):
        return None
    return steps[-1].get("pattern") == {"String": " "} and len(kinds) == 2 if kinds else None


def _require_same(folder: Path, loaded: LoadedTokenizer, values: Mapping[str, Typed], vocab: int) -> None:
    """Refuse scores that would merge text otherwise than the merges they were made of."""
    tokens: Any = values["tokens"].value
    metadata: dict[str, Value] = {f"tokenizer.ggml.{key}": value.value for key, value in values.items()}
    with tempfile.TemporaryDirectory(prefix="minicpm-tokenizer-") as name:
        for file, text in tokenizer_files(metadata, vocab).items():
            (Path(name) / file).write_text(text, encoding="utf-8")
        again = load_folder(Path(name))
    if again.backend.to_str() == loaded.backend.to_str():
        return
    mine, theirs = Tokenizer(loaded), Tokenizer(again)
    for text in _trials(tokens):
        if mine.encode(text) != theirs.encode(text):
            raise _refused(folder, f"it merges {shown(repr(text), 60)} in an order that no scores give")


def _trials(tokens: Sequence[str]) -> Iterator[str]:
    """Texts of one token, and of three."""
    texts = [token.replace(WORD_MARKER, " ") for token in tokens]
    yield from texts[:_TRIALS]
    draw = random.Random(0)
    yield from ("".join(draw.choices(texts, k=3)) for _ in range(_TRIALS))


def _roles(loaded: LoadedTokenizer, config: ModelConfig, ends: Sequence[int]) -> dict[str, Typed]:
    """Ids by role. The end that the tokenizer names comes first; llama.cpp stops at three."""
    spelled = loaded.controls
    end = spelled.get(loaded.settings.eos or "")
    ordered = list(dict.fromkeys([end, *ends] if end in ends else ends))
    ids = {
        "bos_token_id": spelled.get(loaded.settings.bos or "", config.bos),
        "unknown_token_id": spelled.get(loaded.settings.unk or ""),
        "padding_token_id": spelled.get(loaded.settings.pad or "", config.pad),
        **dict(zip(("eos_token_id", "eot_token_id", "eom_token_id"), ordered, strict=False)),
    }
    return {key: u32(number) for key, number in ids.items() if number is not None}


def _templates(folder: Path, config: ModelConfig) -> dict[str, Typed]:
    own = read_own_template(folder)
    if own is None:
        known = registry.family(config.family)
        usual = _TEMPLATES.get(known.template) if known.dialect == "none" else None
        return {} if usual is None else {"tokenizer.chat_template": string(usual)}
    values = {"tokenizer.chat_template": string(own.default)}
    if own.with_tools != own.default:
        values |= {
            "tokenizer.chat_templates": strings(["tool_use"]),
            "tokenizer.chat_template.tool_use": string(own.with_tools),
        }
    return values


def _refused(folder: Path, why: str) -> TokenizerError:
    return TokenizerError(
        f"The tokenizer of {shown(str(folder))} cannot go into a GGUF file: {why}. llama.cpp would give text "
        "other ids than the model learned. Use the model here, or convert it to another format, which keeps "
        "its tokenizer files."
    )
