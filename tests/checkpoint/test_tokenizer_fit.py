"""A tokenizer whose ids leave the embedding is refused from small files alone; a smaller one is fine."""

import json
import os
from pathlib import Path

import pytest

from minicpm.checkpoint.tokenizer_fit import check_tokenizer, count_pieces
from minicpm.errors import TokenizerMismatch
from minicpm.models.registry import parse
from minicpm.testing import tiny_config

DATA = Path(os.environ.get("MINICPM_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


@pytest.fixture
def config():
    return parse(
        tiny_config("minicpm4-0.5b") | {"vocab_size": 100, "bos_token_id": 1, "eos_token_id": [2, 99]}
    )


def write(folder: Path, name: str, content) -> None:
    (folder / name).write_text(json.dumps(content))


def pieces_model(count: int) -> bytes:
    """A SentencePiece file of `count` pieces, with fields of every wire kind between them."""
    piece = b"\x0a\x03abc"
    one = b"\x0a" + bytes([len(piece)]) + piece
    return one * (count - 1) + b"\x10\x96\x01" + b"\x1d1234" + b"\x2112345678" + b"\x12\x02hi" + one


@pytest.mark.parametrize("vocab", [{"a": 0, "b": 99}, ["x"] * 100])
def test_a_tokenizer_that_fits_or_is_smaller_passes(tmp_path, config, vocab):
    check_tokenizer(tmp_path, config, {})
    write(tmp_path, "tokenizer.json", {"model": {"vocab": vocab}, "added_tokens": [{"id": 98}]})
    check_tokenizer(tmp_path, config, {"eos_token_id": [2, 99]})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", {"model": {"vocab": {"a": 100}}}),
        ("tokenizer.json", {"model": {"vocab": ["x"] * 101}}),
        ("tokenizer.json", {"model": {"vocab": {}}, "added_tokens": [{"id": 100}]}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": {}, "100": {}}}),
    ],
)
def test_ids_outside_the_embedding_are_refused_with_numbers(tmp_path, config, name, content):
    write(tmp_path, name, content)
    with pytest.raises(TokenizerMismatch, match=f"100 rows, ids 0 to 99, but its {name} has id 100"):
        check_tokenizer(tmp_path, config, {})


def test_pieces_of_a_sentencepiece_file_are_counted(tmp_path, config):
    (tmp_path / "tokenizer.model").write_bytes(pieces_model(100))
    check_tokenizer(tmp_path, config, {})
    (tmp_path / "tokenizer.model").write_bytes(pieces_model(101))
    with pytest.raises(TokenizerMismatch, match="has id 100"):
        check_tokenizer(tmp_path, config, {})


def test_counting_ends_on_any_damage():
    whole = pieces_model(5)
    assert count_pieces(whole) == 5
    for cut in range(len(whole)):
        assert count_pieces(whole[:cut]) <= 5
    assert count_pieces(b"\xff" * 1000) == 0


def test_special_ids_outside_the_embedding_are_named_with_their_file(tmp_path, config):
    with pytest.raises(TokenizerMismatch, match=r"eos_token_id in generation_config\.json is 100"):
        check_tokenizer(tmp_path, config, {"eos_token_id": [2, 100]})


@pytest.mark.parametrize("content", [{}, {"model": None}, {"model": {"vocab": 7}}, {"added_tokens": "x"}])
def test_a_strange_tokenizer_file_is_left_to_the_tokenizer_to_refuse(tmp_path, config, content):
    write(tmp_path, "tokenizer.json", content)
    check_tokenizer(tmp_path, config, {})


@pytest.mark.parametrize(("folder", "pieces"), [("minicpm-2b", 122753), ("minicpm-1b", 73440)])
def test_published_sentencepiece_files_have_their_published_sizes(folder, pieces):
    found = [path for path in DATA.glob("tokenizers/**/*.model") if count_pieces(path.read_bytes()) == pieces]
    if not (DATA / "tokenizers").is_dir():
        pytest.skip(
            "needs the published tokenizers; set MINICPM_TEST_DATA to the folder that holds tokenizers/"
        )
    assert found, f"no .model file with {pieces} pieces, as {folder} has"
