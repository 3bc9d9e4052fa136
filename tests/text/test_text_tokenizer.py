"""Promises of the tokenizer: the model's own ids, one BOS, and no control token from typed text."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import normalizers

from minicpm.errors import MessageError, TokenizerError
from minicpm.text.pieces import Piece
from minicpm.text.tokenizer import Tokenizer

REAL = ["minicpm-1b-73440", "minicpm-2b-122753", "minicpm3-73448"]
TEXTS = [
    "Hello world",
    "  two spaces\nnewline",
    "<用户>你好<AI>",
    "1234 + 5 = 1239",
    "def f(x):\n\treturn x  # ok\n\n\n",
    "e\u0301 é 👩‍🚀🇨🇳 \u200d \ufeff",
    "\x00\x01\x7f\u2028",
    "<h1>Title</h1><image></image><ref>",
    "▁ ▁▁",
    "混合 English 与中文，标点。！？",
    " ",
    "\n",
    "",
]


@pytest.mark.parametrize("name", REAL)
def test_plain_text_gives_the_ids_of_the_published_tokenizer(name, real_folder):
    folder = real_folder(name)
    tokenizer, backend = Tokenizer.from_folder(folder), Backend.from_file(str(folder / "tokenizer.json"))
    for text in TEXTS:
        assert tokenizer.encode(text) == backend.encode(text, add_special_tokens=False).ids, text


@pytest.mark.parametrize("name", REAL)
def test_decoding_gives_back_what_was_encoded(name, real_folder):
    tokenizer = Tokenizer.from_folder(real_folder(name))
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text.replace("▁", " ")


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        (
            "minicpm-2b-122753",
            [
                [95396, 4194, 95388, 23523, 95396, 10850, 95388],
                [15934, 2809],
                [95345, 95349, 95362, 95370],
                [1345, 15438, 8922, 5, 64197],
            ],
        ),
        (
            "minicpm-1b-73440",
            [[59396, 4194, 59388, 23523, 59396, 10850, 59388], [15934, 2809], [59345, 59349, 59362, 59370]],
        ),
    ],
)
def test_without_the_word_marker_the_ids_are_those_of_the_sentencepiece_model(name, golden, real_folder):
    backend = Backend.from_file(str(real_folder(name) / "tokenizer.json"))
    backend.normalizer = normalizers.Replace(" ", "▁")
    texts = ["<用户>你好<AI>", "Hello world", "1234", "  two spaces\nnewline"]
    found = [backend.encode(text, add_special_tokens=False).ids for text in texts]
    assert found[: len(golden)] == golden


def test_the_special_ids_of_the_73448_vocabulary_are_the_published_ones(real_folder):
    tokenizer = Tokenizer.from_folder(real_folder("minicpm3-73448"))
    assert tokenizer.special_ids["<|im_end|>"] == 73440
    assert tokenizer.special_ids["<|im_start|>"] == 73441
    assert tokenizer.special_ids["<|fim_suffix|>"] == 73447
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.vocab_size) == (1, (2, 73440), 73448)


def test_typed_control_spellings_stay_text(real_folder, small_folder):
    for folder in (real_folder("minicpm3-73448"), small_folder()):
        tokenizer = Tokenizer.from_folder(folder)
        for spelling, number in tokenizer.special_ids.items():
            for text in (spelling, f"a{spelling}b", f" {spelling}\n{spelling}"):
                ids = tokenizer.encode(text)
                assert number not in ids, text
                assert tokenizer.decode(ids) == text


def test_user_defined_symbols_keep_their_ids_in_typed_text(real_folder):
    tokenizer = Tokenizer.from_folder(real_folder("minicpm-2b-122753"))
    assert tokenizer.encode("x\n\ny\tz")[1:3] == [5, 5]
    assert 6 in tokenizer.encode("x\ty")


def test_a_merge_that_would_build_a_control_token_is_not_followed(small_folder):
    folder = small_folder()
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.encode_special_tokens = True
    assert 2 in backend.encode("</s>", add_special_tokens=False).ids, "the trap must be there"
    assert 2 not in Tokenizer.from_folder(folder).encode("</s>")


def test_control_tokens_flagged_ordinary_stay_out_of_typed_text(small_folder):
    folder = small_folder()
    description = json.loads((folder / "tokenizer.json").read_text())
    for token in description["added_tokens"]:
        token["special"] = False
    (folder / "tokenizer.json").write_text(json.dumps(description))
    tokenizer = Tokenizer.from_folder(folder)
    assert not set(tokenizer.special_ids.values()) & set(tokenizer.encode("<think></s><|im_end|><s>"))


def test_a_prompt_begins_with_exactly_one_bos(small_folder):
    tokenizer = Tokenizer.from_folder(small_folder())
    hello = tokenizer.encode("hello")
    assert tokenizer.encode_prompt([Piece("hello")]) == [1, *hello]
    assert tokenizer.encode_prompt([Piece("<s>", True), Piece("hello")]) == [1, *hello]
    assert tokenizer.encode_prompt([Piece("<s>", True), Piece("<s>", True), Piece("hello")]) == [1, *hello]
    assert tokenizer.encode_prompt([]) == [1]


def test_a_model_without_added_bos_gets_one_only_from_its_template(small_folder):
    tokenizer = Tokenizer.from_folder(small_folder(add_bos_token=False))
    assert tokenizer.encode_prompt([Piece("hello")]) == tokenizer.encode("hello")
    assert tokenizer.encode_prompt([Piece("<s>", True), Piece("hello")]) == [1, *tokenizer.encode("hello")]


def test_every_stretch_behind_a_control_token_gets_a_word_marker(real_folder):
    tokenizer = Tokenizer.from_folder(real_folder("minicpm3-73448"))
    pieces = [Piece("<|im_start|>", True), Piece("user\nhi"), Piece("<|im_end|>", True), Piece("\n")]
    assert tokenizer.encode_prompt(pieces) == [1, 73441, 3060, 5, 6920, 73440, 59320, 5]


def test_a_marker_for_the_first_stretch_only_is_put_there_only(small_folder):
    folder = small_folder(marks=False)
    description = json.loads((folder / "tokenizer.json").read_text())
    description["normalizer"] = None
    scheme = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    description["pre_tokenizer"] = scheme
    (folder / "tokenizer.json").write_text(json.dumps(description))
    tokenizer, backend = Tokenizer.from_folder(folder), Backend.from_file(str(folder / "tokenizer.json"))
    whole = "hello<|im_end|>user hello<|im_start|>hello"
    pieces = tokenizer.spellings.split(whole)
    assert tokenizer.encode_prompt(pieces)[1:] == backend.encode(whole, add_special_tokens=False).ids
    pieces = tokenizer.spellings.split("<s>" + whole)
    assert tokenizer.encode_prompt(pieces) == backend.encode("<s>" + whole, add_special_tokens=False).ids


def test_tokens_that_swallow_white_space_do_so(small_folder):
    folder = small_folder()
    description = json.loads((folder / "tokenizer.json").read_text())
    for token in description["added_tokens"]:
        token["lstrip"] = token["content"] == "<|im_start|>"
        token["rstrip"] = token["content"] == "<|im_end|>"
    (folder / "tokenizer.json").write_text(json.dumps(description))
    tokenizer, backend = Tokenizer.from_folder(folder), Backend.from_file(str(folder / "tokenizer.json"))
    whole = "<s>hello  <|im_start|> user \n<|im_end|> \n <|im_start|>user"
    assert (
        tokenizer.encode_prompt(tokenizer.spellings.split(whole))
        == backend.encode(whole, add_special_tokens=False).ids
    )


@pytest.mark.parametrize("ends", [[2, 4], 4])
def test_every_end_id_of_the_generation_config_is_honoured(ends, small_folder):
    folder = small_folder()
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    assert set(Tokenizer.from_folder(folder).eos_ids) == {2, 4}


def test_declared_tokens_must_have_their_declared_ids(small_folder):
    folder = small_folder(added_tokens_decoder={"7": {"content": "<s>", "special": True}})
    with pytest.raises(TokenizerError, match=r"'<s>' 1 \(declared 7\)"):
        Tokenizer.from_folder(folder)


def test_declared_tokens_beyond_the_vocabulary_are_added(small_folder):
    size = Tokenizer.from_folder(small_folder()).vocab_size
    folder = small_folder(added_tokens_decoder={str(size): {"content": "<|extra|>", "special": True}})
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.special_ids["<|extra|>"] == size
    assert tokenizer.vocab_size == size + 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"{", "not a usable tokenizer"),
        ("tokenizer.json", b"\xff\xfe", "not UTF-8"),
        ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\n", "Git-LFS pointer"),
        ("tokenizer_config.json", b"[]", "JSON list"),
        ("tokenizer_config.json", b"[" * 100_000, "not readable JSON"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": 1}}', "names no token"),
    ],
)
def test_broken_files_are_named_in_the_error(name, content, message, small_folder):
    folder = small_folder()
    (folder / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.from_folder(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"continuing_subword_prefix": "long"}, {"vocab": {}}, {"vocab": {"a": 0}}, {"merges": [["a", "b"]]}],
)
def test_a_tokenizer_that_contradicts_itself_is_refused(change, small_folder):
    folder = small_folder()
    description = json.loads((folder / "tokenizer.json").read_text())
    description["model"].update(change)
    (folder / "tokenizer.json").write_text(json.dumps(description))
    with pytest.raises(TokenizerError):
        Tokenizer.from_folder(folder)


def test_two_tokens_of_one_id_are_refused(small_folder):
    folder = small_folder()
    description = json.loads((folder / "tokenizer.json").read_text())
    description["model"]["vocab"]["<0x18>"] = 0
    (folder / "tokenizer.json").write_text(json.dumps(description))
    with pytest.raises(TokenizerError, match="two tokens each"):
        Tokenizer.from_folder(folder)


def test_a_folder_without_a_tokenizer_says_so(tmp_path):
    with pytest.raises(TokenizerError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        Tokenizer.from_folder(tmp_path)


def test_a_lone_surrogate_is_refused(small_folder):
    with pytest.raises(MessageError, match="lone surrogate"):
        Tokenizer.from_folder(small_folder()).encode("a\ud800b")


_SOURCE = st.lists(
    st.sampled_from(["hello", " ", "</s>", "<s", ">", "<|im_end|>", "你", "é", "\n", "\x00", "👩‍🚀"])
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(parts=_SOURCE, anything=st.text())
def test_any_text_survives_encoding_without_control_ids(parts, anything, small_folder, request):
    cached = request.node.__dict__.setdefault("tokenizer", None)
    if cached is None:
        cached = request.node.__dict__["tokenizer"] = Tokenizer.from_folder(small_folder())
    text = "".join(parts) + anything.replace("▁", "")
    ids = cached.encode(text)
    assert not set(ids) & set(cached.special_ids.values())
    assert cached.decode(ids) == text


@pytest.mark.parametrize(("post", "expected"), [(True, [1]), (False, [])])
def test_where_the_configuration_is_silent_the_post_processing_decides_on_bos(post, expected, small_folder):
    folder = small_folder()
    (folder / "tokenizer_config.json").unlink()
    if not post:
        description = json.loads((folder / "tokenizer.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps(description | {"post_processor": None}))
    tokenizer = Tokenizer.from_folder(folder)
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, (2, 4))
    assert tokenizer.encode_prompt([]) == expected
