"""A tokenizer that went through a GGUF file gives the same ids; one that would not is refused."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from minicpm.checkpoint.gguf.pre_tokenizers import PRE_TOKENIZERS, name_of, patterns_of
from minicpm.checkpoint.gguf.tokenizer_in import tokenizer_files
from minicpm.checkpoint.gguf.tokenizer_out import tokenizer_metadata
from minicpm.errors import TokenizerError, TokenizerMismatch
from minicpm.models.published import by_name
from minicpm.models.registry import parse
from minicpm.testing.tiny_tokenizer import tiny_tokenizer
from minicpm.text.format import ChatFormat
from minicpm.text.tokenizer import Tokenizer

DATA = Path(os.environ.get("MINICPM_TEST_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data")
PUBLISHED = {
    "minicpm-1b-73440": "MiniCPM-1B",
    "minicpm3-73448": "MiniCPM3-4B",
    "minicpm-2b-122753": "MiniCPM-2B",
    "minicpm-v-122753": "MiniCPM-2B",
}
NANO = Path(__file__).parents[3] / "src" / "minicpm" / "assets" / "nano"


def through_gguf(folder, config, target):
    metadata = {key: value.value for key, value in tokenizer_metadata(folder, config, config.eos).items()}
    target.mkdir()
    for name, text in tokenizer_files(metadata, config.vocab).items():
        (target / name).write_text(text, encoding="utf-8")
    return metadata


def assert_same(one, other, texts):
    assert (one.special_ids, one.bos_id, one.add_bos) == (other.special_ids, other.bos_id, other.add_bos)
    assert (one.names, one.vocab_size) == (other.names, other.vocab_size)
    for text in texts:
        ids = one.encode(text)
        assert other.encode(text) == ids, text
        assert other.decode(ids) == one.decode(ids), text


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_tokenizers_keep_their_ids(name, tmp_path, tricky_texts):
    folder = DATA / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip("needs the published tokenizers; set MINICPM_TEST_DATA to the folder of tokenizers/")
    config = parse(by_name(PUBLISHED[name]).raw)
    metadata = through_gguf(folder, config, tmp_path / "again")
    assert metadata["tokenizer.ggml.model"] == "llama"
    assert len(metadata["tokenizer.ggml.tokens"]) == config.vocab
    assert_same(Tokenizer.from_folder(folder), Tokenizer.from_folder(tmp_path / "again"), tricky_texts)


def toy(family, folder):
    made = tiny_tokenizer(family)
    folder.mkdir()
    made.write(folder)
    config = replace(
        parse(by_name("MiniCPM-1B").raw), vocab=made.size, bos=made.bos, eos=made.eos, family=family
    )
    return folder, config


@pytest.mark.parametrize("family", ["minicpm", "minicpm4", "minicpm5"])
def test_toy_tokenizers_keep_their_ids(family, tmp_path, tricky_texts):
    folder, config = toy(family, tmp_path / "toy")
    through_gguf(folder, config, tmp_path / "again")
    assert_same(Tokenizer.from_folder(folder), Tokenizer.from_folder(tmp_path / "again"), tricky_texts)


def test_rows_beyond_the_tokenizer_are_filled_and_forgotten(tmp_path):
    folder, config = toy("minicpm", tmp_path / "toy")
    wide = replace(config, vocab=config.vocab + 5)
    metadata = through_gguf(folder, wide, tmp_path / "again")
    assert metadata["tokenizer.ggml.tokens"][-1] == f"[PAD{wide.vocab - 1}]"
    assert metadata["tokenizer.ggml.token_type"][-5:] == [5] * 5
    assert Tokenizer.from_folder(tmp_path / "again").vocab_size == config.vocab


def byte_level(folder, pre):
    """A byte-level BPE, trained on a few words, with pieces cut as `pre` says."""
    backend = Backend(models.BPE(ignore_merges=PRE_TOKENIZERS[pre].whole))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    words = [
        "Hello world, don't cut 12345 numbers",
        "你好，世界",
        "  two  spaces\n",
        "def f(x):\n    return x",
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(words * 3, trainer)
    marks = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    backend.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    backend.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    folder.mkdir()
    written = json.loads(backend.to_str())
    written["pre_tokenizer"] = PRE_TOKENIZERS[pre].description
    (folder / "tokenizer.json").write_text(json.dumps(written))
    settings = {"bos_token": "<s>", "eos_token": "<|im_end|>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    size = backend.get_vocab_size()
    ends = (backend.token_to_id("</s>"), backend.token_to_id("<|im_end|>"))
    config = parse(by_name("MiniCPM5-1B").raw)
    return folder, replace(config, vocab=size, bos=backend.token_to_id("<s>"), eos=ends, pad=None)


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_byte_level_tokenizers_keep_their_ids(pre, tmp_path, tricky_texts):
    folder, config = byte_level(tmp_path / "bytes", pre)
    metadata = through_gguf(folder, config, tmp_path / "again")
    assert (metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]) == ("gpt2", pre)
    # The end that the tokenizer names is the first; a model may have a second.
    assert metadata["tokenizer.ggml.eos_token_id"] == config.eos[1]
    assert metadata["tokenizer.ggml.eot_token_id"] == config.eos[0]
    kinds = dict(zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"], strict=True))
    assert (kinds["<|im_end|>"], kinds["<think>"]) == (3, 4)
    one, other = Tokenizer.from_folder(folder), Tokenizer.from_folder(tmp_path / "again")
    assert_same(one, other, tricky_texts)


def test_a_cut_without_a_name_is_refused(tmp_path):
    folder, config = byte_level(tmp_path / "bytes", "gpt-2")
    written = json.loads((folder / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": False}
    alphabet = written["pre_tokenizer"] | {"use_regex": False}
    written["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, alphabet]}
    (folder / "tokenizer.json").write_text(json.dumps(written))
    with pytest.raises(TokenizerError, match=r"cuts text by .*x\+"):
        tokenizer_metadata(folder, config, config.eos)


def test_descriptions_and_names_of_cuts_belong_together():
    for name, pre in PRE_TOKENIZERS.items():
        assert name_of(pre.description, whole=pre.whole) == name
    assert patterns_of(None) is None
    assert patterns_of({"type": "Metaspace"}) is None


def test_the_packaged_tokenizer_is_refused_since_llama_cpp_cannot_follow_it():
    config = parse(json.loads((NANO / "config.json").read_text()))
    with pytest.raises(TokenizerError, match="prepares text in a way of its own"):
        tokenizer_metadata(NANO, config, config.eos)


def test_merges_that_no_scores_give_are_refused_with_a_text(tmp_path):
    folder, config = toy("minicpm", tmp_path / "toy")
    written = json.loads((folder / "tokenizer.json").read_text())
    # "the" may no longer be made of "t" and "he", which scores would allow.
    written["model"]["merges"] = [m for m in written["model"]["merges"] if list(m) != ["t", "he"]]
    written["model"]["merges"].append(["th", "e"])
    (folder / "tokenizer.json").write_text(json.dumps(written))
    with pytest.raises(TokenizerError, match="in an order that no scores give"):
        tokenizer_metadata(folder, config, config.eos)


def test_templates_travel_and_are_text_only(tmp_path):
    folder, config = toy("minicpm4", tmp_path / "toy")
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    named = [{"name": "default", "template": template}, {"name": "tool_use", "template": template + "!"}]
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"chat_template": named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    metadata = through_gguf(folder, config, tmp_path / "again")
    assert metadata["tokenizer.chat_template"] == template
    assert metadata["tokenizer.chat_template.tool_use"] == template + "!"
    again = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert again["chat_template"] == named


@pytest.mark.parametrize("family", ["minicpm", "minicpm-128k"])
def test_a_template_that_the_reader_would_choose_is_written_and_says_the_same(tmp_path, family):
    folder, config = toy(family, tmp_path / "toy")
    through_gguf(folder, config, tmp_path / "again")
    talk = [{"role": "user", "content": " Hi "}, {"role": "assistant", "content": "Yes"}]
    talk.append({"role": "user", "content": "Go on"})
    usual = "chatml" if family == "minicpm-128k" else "minicpm-v1"
    known = ChatFormat.from_folder(folder, template=usual, dialect="none")
    again = ChatFormat.from_folder(tmp_path / "again", template="minicpm-v1", dialect="none")
    assert again.template_origin == "checkpoint"
    assert again.prompt_text(talk) == known.prompt_text(talk)


GOOD = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a", "b"],
    "tokenizer.ggml.token_type": [2, 3, 3, 1, 1],
    "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -1.0, -2.0],
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", "bert"),
        ("model", 7),
        ("tokens", None),
        ("tokens", "abcde"),
        ("tokens", [1, 2, 3, 4, 5]),
        ("tokens", ["a", "a", "b", "c", "d"]),
        ("tokens", ["", "a", "b", "c", "d"]),
        ("token_type", [1, 1]),
        ("token_type", [1, 2, 3, 4, 99]),
        ("token_type", [1.0] * 5),
        ("scores", None),
        ("scores", [0.0]),
        ("scores", [0.0, 0.0, float("nan"), 0.0, 0.0]),
        ("scores", [0.0, 0.0, float("inf"), 0.0, 0.0]),
        ("scores", [True] * 5),
        ("bos_token_id", 5),
        ("bos_token_id", -1),
        ("eos_token_id", "two"),
        ("unknown_token_id", 2**40),
        ("padding_token_id", 1.5),
        ("add_bos_token", 1),
        ("add_space_prefix", "yes"),
    ],
)
def test_what_is_wrong_is_named(key, value):
    metadata = GOOD | {f"tokenizer.ggml.{key}": value}
    if value is None:
        del metadata[f"tokenizer.ggml.{key}"]
    with pytest.raises(TokenizerError, match=rf"tokenizer\.ggml\.{key}"):
        tokenizer_files(metadata, 5)


BYTES = GOOD | {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pre", "unheard-of"),
        ("pre", 3),
        ("merges", None),
        ("merges", ["ab"]),
        ("merges", ["a "]),
        ("merges", ["a c"]),
        ("merges", ["a b"]),
    ],
)
def test_what_is_wrong_with_bytes_is_named(key, value):
    metadata = BYTES | {"tokenizer.ggml.merges": []} | {f"tokenizer.ggml.{key}": value}
    if value is None:
        del metadata[f"tokenizer.ggml.{key}"]
    with pytest.raises(TokenizerError, match=rf"tokenizer\.ggml\.{key}"):
        tokenizer_files(metadata, 5)


@pytest.mark.parametrize("vocab", [4, 6])
def test_a_vocabulary_of_another_size_does_not_belong_to_the_weights(vocab):
    with pytest.raises(TokenizerMismatch, match=r"tokenizer\.ggml\.tokens lists 5 tokens"):
        tokenizer_files(GOOD, vocab)


def test_tokens_of_megabytes_are_refused_at_once():
    metadata = GOOD | {"tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a", "b" * (1 << 22)]}
    with pytest.raises(TokenizerError, match=r"tokenizer\.ggml\.tokens"):
        tokenizer_files(metadata, 5)


def test_a_file_without_a_vocabulary_has_no_tokenizer():
    assert tokenizer_files({}, 5) == {}
    assert tokenizer_files({"tokenizer.ggml.model": "no_vocab"}, 5) == {}


def test_a_template_of_another_type_is_left_out():
    assert "chat_template.jinja" not in tokenizer_files(GOOD | {"tokenizer.chat_template": 5}, 5)
