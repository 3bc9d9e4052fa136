"""Promises of the SentencePiece reader: the tokenizer of the published tokenizer.json, or a clear refusal."""

import shutil
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from minicpm.errors import TokenizerError
from minicpm.text.protobuf import fields
from minicpm.text.sentencepiece import _model, read_sentencepiece
from minicpm.text.tokenizer import Tokenizer


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def bytes_field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def piece(text, score=0.0, kind=1):
    body = bytes_field(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score)
    return bytes_field(1, body + varint(3 << 3) + varint(kind))


def model(*pieces, model_type=2, charsmap=b""):
    trainer = bytes_field(2, varint(3 << 3) + varint(model_type))
    return b"".join(pieces) + trainer + bytes_field(3, bytes_field(1, b"identity") + bytes_field(2, charsmap))


SMALL = [piece("<unk>", kind=2), piece("<s>", kind=3), piece("</s>", kind=3), piece("\n", kind=4)]
SMALL += [piece(f"<0x{n:02X}>", kind=6) for n in range(256)]
SMALL += [piece("▁a", -1.0), piece("ab", -2.0)]
SMALL += [piece(text, -9.0) for text in ("▁", "a", "b")]


def test_the_model_file_and_the_published_json_are_one_tokenizer(real_folder, tmp_path):
    folder = real_folder("minicpm-1b-73440")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path)
    ours, theirs = Tokenizer.from_folder(tmp_path), Tokenizer.from_folder(folder)
    assert ours._backend.to_str() == theirs._backend.to_str().replace(*_template(theirs))
    for text in [
        "Hello world",
        "  你好\n\n\tx</s>",
        "👩‍🚀 é 1234",
        "<image>▁",
        "def f():\n    return 1\n" * 50,
    ]:
        assert ours.encode(text) == theirs.encode(text)
    prompt = theirs.spellings.split("<s>hello</s> there\n<unk>x")
    assert ours.encode_prompt(prompt) == theirs.encode_prompt(prompt)
    assert (ours.bos_id, ours.eos_ids, ours.vocab_size) == (theirs.bos_id, theirs.eos_ids, theirs.vocab_size)


def _template(tokenizer):
    """The post-processor, which prompts do not use, is the only part of the JSON that is not rebuilt."""
    text = tokenizer._backend.to_str()
    start = text.index('"post_processor":')
    return text[start : text.index(',"decoder"')], '"post_processor":null'


def test_reserved_pieces_take_the_names_of_the_configuration(real_folder):
    tokenizer = Tokenizer.from_folder(real_folder("minicpm-v-122753"))
    assert tokenizer.special_ids["<image>"] == 101
    assert tokenizer.special_ids["<slice>"] == 111
    assert tokenizer.vocab_size == 122753
    assert 101 not in tokenizer.encode("<image>")


def test_pieces_merge_best_score_first(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(model(*SMALL))
    tokenizer = Tokenizer.from_folder(tmp_path)
    backend = Backend.from_str(tokenizer._backend.to_str())
    assert [backend.id_to_token(n) for n in tokenizer.encode("ab b")] == ["▁a", "b", "▁", "b"]
    assert tokenizer.decode(tokenizer.encode("ab\né b")) == "ab\né b"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (model(*SMALL, model_type=1), "only BPE"),
        (model(*SMALL, charsmap=b"x"), "normalisation map"),
        (model(*SMALL, piece("a")), "appear twice"),
        (model(*SMALL[1:]), "0 unknown pieces"),
        (model(), "no pieces"),
        (model(*SMALL, piece("")), "empty piece"),
        (model(*SMALL, piece("x", float("nan"))), "score nan"),
        (model(*SMALL, piece("x", kind=9)), "not a valid Kind"),
        (model(*SMALL)[:-3], "past the end"),
        (b"\xff" * 11, "longer than 10 bytes"),
        (b"\x0b", "wire type 3"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(data, message, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(data)
    with pytest.raises(TokenizerError, match=message):
        read_sentencepiece(tmp_path / "tokenizer.model")


def test_a_foreign_character_map_is_refused(real_folder):
    with pytest.raises(TokenizerError, match="normalisation map"):
        read_sentencepiece(real_folder("tiny") / "torchtune_m.model")


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200))
def test_random_bytes_are_read_or_refused(data):
    try:
        list(fields(data))
        _model(data)
    except ValueError:
        pass


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, len(model(*SMALL)) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(place, byte):
    data = bytearray(model(*SMALL))
    data[place] = byte
    try:
        _model(bytes(data))
    except ValueError:
        pass
