"""Promises of the detokenizer: the text of the whole, piece by piece, and never half a character."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minicpm.text.detokenizer import Detokenizer, TokenText
from minicpm.text.tokenizer import Tokenizer


def byte_vocabulary(**options):
    """Ids 0 to 255 are bytes, 256 a hidden control token, 257 a shown one, 258 a word with a marker."""
    spelled = {257: b"<think>", 258: b" word", 259: b"a", 260: b"\xee\x80\x80", 261: b"xy"}
    return TokenText(
        bytes_of=lambda n: spelled.get(n) or bytes([n]),
        controls=frozenset({256, 257}),
        hidden=frozenset({256}),
        marks_first=options.get("marks", False),
        marks_later=options.get("marks", False),
        replacements=options.get("replacements", ()),
    )


def fed(vocabulary, ids, **options):
    detokenizer = Detokenizer(vocabulary, **options)
    return [*map(detokenizer.push, ids), detokenizer.finish()]


def test_a_character_appears_with_its_last_byte():
    assert fed(byte_vocabulary(), list("é你👩".encode())) == ["", "é", "", "", "你", "", "", "", "👩", ""]


def test_a_character_cut_off_at_the_end_is_one_replacement():
    assert fed(byte_vocabulary(), list("👩".encode()[:3])) == ["", "", "", "\ufffd"]


def test_hidden_tokens_show_nothing_and_others_their_spelling():
    assert "".join(fed(byte_vocabulary(), [65, 256, 66, 257, 67])) == "AB<think>C"


def test_a_control_token_ends_an_open_character():
    assert fed(byte_vocabulary(), [0xE4, 256, 65]) == ["", "\ufffd", "A", ""]


def test_the_word_marker_of_a_stretch_is_taken_away_once():
    vocabulary = byte_vocabulary(marks=True)
    assert "".join(fed(vocabulary, [258, 258, 256, 258, 257, 258])) == "word wordword<think>word"
    assert "".join(fed(vocabulary, [258, 258], continues=True)) == " word word"
    assert "".join(fed(byte_vocabulary(), [258])) == " word"


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, 255)))
def test_any_bytes_decode_as_in_one_go(ids):
    pieces = fed(byte_vocabulary(), ids)
    assert "".join(pieces) == bytes(ids).decode("utf-8", "replace")
    assert all(piece.encode() for piece in pieces if piece)


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(alphabet="abcé"), old=st.text("ab", min_size=1, max_size=3), new=st.text("xé", max_size=2)
)
def test_replacements_are_those_of_the_whole_text(text, old, new):
    vocabulary = byte_vocabulary(replacements=((old, new), ("x", "ab")))
    assert "".join(fed(vocabulary, list(text.encode()))) == text.replace(old, new).replace("x", "ab")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(text=st.text())
def test_streaming_equals_decoding_at_once(text, small_folder, request):
    tokenizer = request.node.__dict__.get("tokenizer") or Tokenizer.from_folder(small_folder())
    request.node.__dict__["tokenizer"] = tokenizer
    ids = tokenizer.encode(text)
    detokenizer = tokenizer.detokenizer()
    shown = ""
    for number in ids:
        shown += detokenizer.push(number)
        assert text.replace("▁", " ").startswith(shown)
    assert shown + detokenizer.finish() == tokenizer.decode(ids)


@pytest.mark.parametrize("name", ["minicpm-1b-73440", "minicpm-2b-122753", "minicpm3-73448"])
def test_every_cut_of_a_real_token_stream_shows_a_prefix(name, real_folder):
    tokenizer = Tokenizer.from_folder(real_folder(name))
    text = "Hi 你好 👩‍🚀🇨🇳 e\u0301 𠀀\n\tx  y"
    ids = tokenizer.encode(text)
    for cut in range(len(ids) + 1):
        detokenizer = tokenizer.detokenizer()
        shown = "".join(map(detokenizer.push, ids[:cut]))
        assert text.startswith(shown)
        rest = "".join(map(detokenizer.push, ids[cut:])) + detokenizer.finish()
        assert shown + rest == text


def test_turn_markers_are_hidden_and_thought_markers_shown(small_folder):
    tokenizer = Tokenizer.from_folder(small_folder())
    names = (
        "<s>",
        "<think>",
        "</think>",
        "<|tool_call_start|>",
        "<|im_end|>",
        "</s>",
        "<|im_start|>",
        "<unk>",
    )
    assert (
        tokenizer.decode([tokenizer.special_ids[name] for name in names])
        == "<think></think><|tool_call_start|>"
    )


def test_an_id_beyond_the_vocabulary_spells_nothing(small_folder):
    tokenizer = Tokenizer.from_folder(small_folder())
    assert tokenizer.decode([tokenizer.vocab_size, 10**12, -1]) == ""
