"""The exams ask the same every time, and their checks accept the right answer only."""

import json
from pathlib import Path
from random import Random

import pytest
from tokenizers import Tokenizer

from minicpm.text.events import ToolCall
from minicpm.text.format import ChatFormat
from minicpm.train.nano import checks
from minicpm.train.nano.corpus import shard, tools
from minicpm.train.nano.corpus.mixture import LONG, STABLE
from minicpm.train.nano.encode import encode_samples
from minicpm.train.nano.exams import EXAMS, exam, tokens_of
from minicpm.train.nano.sample import call_line
from minicpm.train.nano.tokenizer import build_tokenizer, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nano")
    write(build_tokenizer([sample for index in range(3) for sample in shard(0, index, STABLE)]), path)
    return path


@pytest.mark.parametrize("name", EXAMS)
def test_an_exam_depends_on_its_seed_alone(name: str) -> None:
    first, again, other = (exam(name, seed, 6) for seed in (1, 1, 2))
    assert [item.messages for item in first] == [item.messages for item in again]
    assert [item.messages for item in first] != [item.messages for item in other]


@pytest.mark.parametrize("name", EXAMS)
def test_no_exam_passes_silence(name: str) -> None:
    assert not any(item.check("", []) for item in exam(name, 0, 40))


@pytest.mark.parametrize(("name", "low", "high"), [("retrieval_1k", 850, 1100), ("retrieval_2k", 1600, 1990)])
def test_retrieval_prompts_have_the_length_they_promise(folder: Path, name: str, low: int, high: int) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for item in exam(name, 3, 12):
        text = item.messages[0]["content"]
        length = len(tokenizer.encode(text).ids)
        assert low < length < high
        assert length == pytest.approx(tokens_of(text), rel=0.1)


def test_few_long_samples_outgrow_the_context(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    lengths = [len(encoded.ids) for encoded in encode_samples(tokenizer, shard(0, 0, LONG))]
    assert max(lengths) > 1800
    assert sum(length > 2048 for length in lengths) < 0.02 * len(lengths)


def test_a_call_written_as_trained_passes_its_exam(folder: Path) -> None:
    rng = Random(7)
    chat_format = ChatFormat.from_folder(folder, template="nano", dialect="py-call")
    for number in range(200):
        shown = tools.choose(rng, 3)
        asked = tools.request(rng, shown[0], number % 2 == 0, held=True)
        parser = chat_format.parser(thinking="off", tools=[each.tool for each in shown])
        written = f"<|tool_call_start|>\n```python\n{call_line(asked.call)}\n```\n<|tool_call_end|>"
        events = [*parser.push(written), *parser.finish("stop")]
        calls = [(e.name, json.loads(e.arguments)) for e in events if isinstance(e, ToolCall)]
        assert checks.calls_exactly(shown[0].name, asked.arguments)("", calls), written


def test_calls_must_be_equal_in_value_type_and_number() -> None:
    check = checks.calls_exactly("f", {"n": 1})
    assert check("", [("f", {"n": 1})])
    for calls in ([], [("g", {"n": 1})], [("f", {"n": True})], [("f", {"n": "1"})], [("f", {"n": 1})] * 2):
        assert not check("", calls)


def test_the_last_number_counts() -> None:
    check = checks.ends_with_number(-25)
    assert check("17 - 42 = -25.", [])
    assert not check("17 - 42 = 25.", [])
    assert not check("-25 or -26", [])


def test_a_value_must_stand_whole() -> None:
    check = checks.contains_whole("482")
    assert check("The code is 482.", [])
    assert check("密码是482。", [])
    assert not check("The code is 4821.", [])


@pytest.mark.parametrize(
    ("raw", "on", "off"),
    [
        ("A greeting.\n</think>\n\nHello!<|im_end|>", True, False),
        ("Hello!<|im_end|>", False, True),
        ("\n</think>\n\nHello!<|im_end|>", False, False),
        ("A greeting.\n</think>\n\n<|im_end|>", False, False),
        ("A\n</think>\n\nB\n</think>\n\nC<|im_end|>", False, False),
        ("<think>A\n</think>\n\nB<|im_end|>", False, False),
        ("<|im_end|>", False, False),
    ],
)
def test_thinking_is_obeyed_or_not(raw: str, on: bool, off: bool) -> None:
    assert checks.thought_first(raw, []) is on
    assert checks.no_thought(raw, []) is off


def test_honesty_is_told_in_either_language() -> None:
    assert checks.honest("I do not know that. I am a tiny demo model.", [])
    assert checks.honest("我不知道。我是一个很小的演示模型。", [])
    assert not checks.honest("The capital of Mongolia is Paris.", [])
