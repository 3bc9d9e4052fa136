"""nano's tokenizer and encoder: lossless, piecewise equal to the whole, the same file every time."""

import json
from pathlib import Path

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from minicpm.text.format import ChatFormat
from minicpm.train.nano.corpus import STABLE, shard
from minicpm.train.nano.encode import encode_sample, encode_samples
from minicpm.train.nano.exams import EXAMS, exam
from minicpm.train.nano.sample import Sample, chat_sample
from minicpm.train.nano.tokenizer import SPECIAL, build_tokenizer, template_text, write


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return shard(1, 0, STABLE, size=1500)


@pytest.fixture(scope="module")
def tokenizer(samples: list[Sample]) -> Tokenizer:
    return build_tokenizer(samples, vocab=3000)


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nano")
    write(tokenizer, path)
    return path


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def test_special_tokens_come_first(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(text) for text in SPECIAL] == list(range(len(SPECIAL)))
    assert SPECIAL[:5] == ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
    assert tokenizer.token_to_id("<0x00>") == len(SPECIAL)


def test_the_same_text_gives_the_same_file(tokenizer: Tokenizer, samples: list[Sample]) -> None:
    assert build_tokenizer(samples, vocab=3000).to_str() == tokenizer.to_str()


@settings(max_examples=300, deadline=None)
@given(text=st.text())
def test_decoding_gives_every_text_back(tokenizer: Tokenizer, text: str) -> None:
    tokenizer.encode_special_tokens = True
    assert tokenizer.decode(ids(tokenizer, text), skip_special_tokens=False) == text


@pytest.mark.parametrize(
    "text",
    ["", " ", "  a  b ", "a\n\n\tb\r\n", "😀👩‍👩‍👧", "▁a ▁", "\ue000\ue001 \ue002", "你好，世界", "\x00é"],
)
def test_decoding_gives_awkward_texts_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(ids(tokenizer, text)) == text


def test_digits_and_newlines_are_always_their_own_tokens(tokenizer: Tokenizer) -> None:
    for piece in tokenizer.get_vocab():
        if piece not in SPECIAL and not piece.startswith("<0x"):
            assert len(piece) == 1 or not any(ch.isdigit() or ch == "\n" for ch in piece), piece


def test_a_sum_has_one_token_between_its_numbers(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("17 + 25 = 42", add_special_tokens=False).tokens
    assert tokens == ["1", "7", "▁+▁", "2", "5", "▁=▁", "4", "2"]


def test_a_name_has_the_same_tokens_wherever_it_stands(tokenizer: Tokenizer) -> None:
    name = ids(tokenizer, "Klapo")
    for text in ("in Klapo", 'city="Klapo"', "Klapo: 1", "x\nKlapo", "(Klapo)"):
        got = ids(tokenizer, text)
        assert any(got[at : at + len(name)] == name for at in range(len(got))), text


def test_parts_encoded_apart_equal_the_whole(tokenizer: Tokenizer, samples: list[Sample]) -> None:
    tokenizer.encode_special_tokens = False
    for sample, encoded in zip(samples, encode_samples(tokenizer, samples), strict=True):
        assert encoded.ids == ids(tokenizer, sample.text), sample.text
        assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == sample.text


def test_the_learn_mask_covers_the_learned_parts(tokenizer: Tokenizer, samples: list[Sample]) -> None:
    for sample in samples[:300]:
        encoded = encode_sample(tokenizer, sample)
        learned = [number for number, learn in zip(encoded.ids, encoded.learn, strict=True) if learn]
        expected = "".join(part.text for part in sample.parts if part.learn)
        assert tokenizer.decode(learned, skip_special_tokens=False) == expected


def test_special_spellings_inside_a_text_stay_text(tokenizer: Tokenizer) -> None:
    chat = [{"role": "user", "content": "<|im_end|> </s>"}, {"role": "assistant", "content": "<think>"}]
    encoded = encode_sample(tokenizer, chat_sample("x", chat))
    assert [encoded.ids.count(tokenizer.token_to_id(text)) for text in ("<|im_end|>", "</s>", "<think>")] == [
        2,
        0,
        1,
    ]


def render(messages: list[dict[str, object]], **variables: object) -> str:
    environment = jinja2.Environment()
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return "<s>" + environment.from_string(template_text()).render(
        messages=messages, **{"tools": None, **variables}
    )


CALLS = [
    {"type": "function", "function": {"name": "a", "arguments": {"x": 'é"', "y": None, "z": [1, True]}}},
    {"type": "function", "function": {"name": "b", "arguments": {}}},
]
CHATS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Set an alarm."},
    {"role": "assistant", "content": "At what time?"},
    {"role": "user", "content": "7:30 und 早上"},
    {"role": "assistant", "content": "", "tool_calls": CALLS},
    {"role": "tool", "content": "{}"},
    {"role": "assistant", "content": "Done.", "thought": "I say so."},
]
PROPERTIES = {"x": {"type": "string"}, "y": {"type": "array", "default": []}, "z": {"enum": [1, "二"]}}
PARAMETERS = {"type": "object", "properties": PROPERTIES, "required": ["x"]}
TOOLS = [
    {"type": "function", "function": {"name": "a", "description": "Does é.", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "b", "description": "Nothing."}},
]


def test_the_template_writes_what_training_showed() -> None:
    for shown in ([], TOOLS):
        for system in (CHATS, CHATS[1:]):
            for thinking in ("on", "off"):
                whole = chat_sample("x", system, tools=shown, thinking=thinking).text
                told = "I say so.\n</think>\n\nDone.<|im_end|>" if thinking == "on" else "Done.<|im_end|>"
                prompt = render(
                    system[:-1], tools=shown, add_generation_prompt=True, enable_thinking=thinking == "on"
                )
                assert prompt + told == whole


def test_without_a_word_on_thinking_the_template_thinks() -> None:
    chat = [{"role": "user", "content": "hi"}]
    assert render(chat, add_generation_prompt=True).endswith("<|im_start|>assistant\n<think>\n")
    assert render(chat, add_generation_prompt=False).endswith("hi<|im_end|>\n")


def test_the_chat_format_of_the_folder_prompts_as_training_did(folder: Path, tokenizer: Tokenizer) -> None:
    chat_format = ChatFormat.from_folder(folder, template="nano", dialect="py-call")
    for name in EXAMS:
        for item in exam(name, 1, 3):
            end = {"role": "assistant", "content": "x", "thought": "x"}
            sample = chat_sample("x", [*item.messages, end], tools=item.tools, thinking=item.thinking)
            ends = (
                4 if item.thinking == "on" else 2
            )  # the answer's own parts: thought, its end, content, turn end
            prompt = encode_sample(tokenizer, Sample("x", sample.parts[:-ends])).ids
            assert (
                chat_format.prompt_ids(item.messages, tools=list(item.tools) or None, thinking=item.thinking)
                == prompt
            )


def test_the_folder_holds_what_other_libraries_read(folder: Path, tokenizer: Tokenizer) -> None:
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).to_str() == tokenizer.to_str()
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["chat_template"] == (folder / "chat_template.jinja").read_text(encoding="utf-8")
    assert (config["bos_token"], config["eos_token"]) == ("<s>", "<|im_end|>")


def test_a_few_samples_are_short_in_tokens(tokenizer: Tokenizer) -> None:
    lengths = [len(encoded.ids) for encoded in encode_samples(tokenizer, shard(2, 0, STABLE, size=300))]
    assert max(lengths) <= 640
