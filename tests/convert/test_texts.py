"""Texts become sequences of ids, and those that would calibrate nothing are refused by what is wrong."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from minicpm.checkpoint import resolve
from minicpm.convert.texts import read_sequences
from minicpm.errors import BadInput
from minicpm.text.tokenizer import Tokenizer
from minicpm.train.nano.plain_text import plain_texts

TOOL = Path(__file__).resolve().parents[2] / "tools" / "calibration_text.py"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_folder(resolve("nano"))


def sequences(source, tokenizer, **options):
    return read_sequences(source, tokenizer, purpose="calibration", **options)


def test_the_packages_own_texts_are_bilingual_and_differ(tokenizer):
    one = sequences("builtin", tokenizer)
    other = read_sequences("builtin", tokenizer, purpose="comparison")
    assert one.tokens > 60_000
    assert other.tokens > 15_000
    text = tokenizer.decode(one.ids[0].tolist() + one.ids[5].tolist() + one.ids[9].tolist())
    assert text.isprintable() or "\n" in text
    assert one.digest != other.digest
    assert not {tuple(ids.tolist()) for ids in one.ids} & {
        tuple(i.tolist()) for i in other.ids if len(i) > 60
    }


def test_the_packages_own_texts_are_what_the_generator_writes():
    spec = importlib.util.spec_from_file_location("calibration_text", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for name, seed, characters in tool.FILES:
        lines = (tool.FOLDER / name).read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["text"] for line in lines] == plain_texts(seed, characters)


def test_sequences_are_cut_and_begin_with_bos(tokenizer, tmp_path):
    path = tmp_path / "plain.txt"
    path.write_text("What is 17 + 25? " * 200, encoding="utf-8")
    found = sequences(path, tokenizer, length=64)
    assert all(len(ids) == 64 for ids in found.ids[:-1])
    assert all(ids[0] == tokenizer.bos_id for ids in found.ids)
    body = torch.cat([ids[1:] for ids in found.ids]).tolist()
    assert body == tokenizer.encode("What is 17 + 25? " * 200)[: len(body)]


def test_every_line_begins_a_sequence(tokenizer, tmp_path):
    path = tmp_path / "lines.jsonl"
    lines = [json.dumps({"text": f"{i} + {i} = {2 * i}. " * 12, "more": 1}) for i in range(10, 30)]
    path.write_text("\n\n".join(lines), encoding="utf-8-sig")
    found = sequences(path, tokenizer)
    assert len(found.ids) == 20
    assert sum(len(batch.ids) for batch in found.batches()) == found.tokens
    assert sum(len(batch.segments) for batch in found.batches()) == 20


@pytest.mark.parametrize("tokens", [16, 100, 1000])
def test_no_more_tokens_are_taken_than_asked_for(tokenizer, tokens):
    found = sequences("builtin", tokenizer, tokens=tokens)
    assert tokens - 8 < found.tokens <= tokens


HOSTILE = {
    "empty.txt": (b"", "is empty"),
    "blank.jsonl": (b'\n  \n{"text": "  "}\n', "is empty"),
    "short.txt": (b"Hello there.", "tokens, and fewer than"),
    "binary.txt": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9, "is not UTF-8 text (byte 0"),
    "zeros.txt": (b"text" + bytes(5000), "byte 4 is zero"),
    "lines.jsonl": (b'{"text": "one"}\n{"text": \n', "Line 2"),
    "other.jsonl": (b'{"text": "one"}\n\n{"content": "two"}\n', "Line 3"),
    "number.jsonl": (b'{"text": 5}\n', 'no "text" that is a string'),
    "list.jsonl": (b"[1, 2]\n", 'no "text"'),
    "deep.jsonl": (b"[" * 100_000 + b"\n", "Line 1"),
    "thai.txt": (("ภาษาไทยเป็นภาษาที่มีระดับเสียงของคำแน่นอน " * 60).encode(), "does not hold its language"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_says_nothing_about_the_model_is_refused(name, tokenizer, tmp_path):
    content, part = HOSTILE[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInput) as refused:
        sequences(path, tokenizer)
    assert part in str(refused.value), refused.value
    assert "calibration" in str(refused.value)


def test_what_is_no_file_is_refused(tokenizer, tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        sequences(tmp_path / "none.txt", tokenizer)
    with pytest.raises(BadInput, match="is a folder"):
        sequences(tmp_path, tokenizer)
