"""What the tests of the text room share: real tokenizers where they exist, and a small one of our own."""

import json
import os
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from minicpm.text.events import ReasoningDelta, TextDelta
from minicpm.text.parser import StreamParser
from minicpm.text.tools import check_tools

_BESIDE = Path(__file__).resolve().parents[2].parent / "shared" / "data"
CONTROLS = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
CONTROLS += ("<|tool_call_start|>", "<|tool_call_end|>")


@pytest.fixture
def real_folder():
    """A folder of a published tokenizer, by name."""

    def find(name):
        folder = Path(os.environ.get("MINICPM_TEST_DATA", _BESIDE)) / "tokenizers" / name
        if not folder.is_dir():
            pytest.skip(
                f"{folder} is absent; set MINICPM_TEST_DATA to the folder with the published tokenizers"
            )
        return folder

    return find


@pytest.fixture(scope="session", name="write_small_tokenizer")
def small_tokenizer_writer():
    """Writes the small tokenizer into a folder."""
    return write_small_tokenizer


def write_small_tokenizer(folder, *, template=None, marks=True, **config):
    """A byte-fallback BPE over a few words, with the control tokens of a chat model."""
    bytes_ = [f"<0x{n:02X}>" for n in range(256)]
    letters = [chr(n) for n in range(32, 127) if chr(n) != " "] + ["▁", "\n", "你", "好"]
    words = ["he", "ll", "hell", "hello", "▁hello", "us", "er", "user", "▁user", "▁w", "</", "</s", "</s>"]
    vocabulary = {piece: n for n, piece in enumerate([*CONTROLS, *bytes_, *letters])}
    for word in words:
        vocabulary.setdefault(word, len(vocabulary))
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("▁", "hello"), ("u", "s"), ("e", "r")]
    merges += [("us", "er"), ("▁", "user"), ("▁", "w"), ("<", "/"), ("</", "s"), ("</s", ">")]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    space = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space]) if marks else space
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if marks else steps)
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in CONTROLS])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "add_bos_token": True, **config}
    if template is not None:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def small_folder(tmp_path):
    """A model folder that holds nothing but the small tokenizer; call it with a template to add one."""
    return lambda **options: write_small_tokenizer(tmp_path, **options)


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer", "default": 1},
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "unit": {"enum": ["Celsius", "Fahrenheit"]},
                    "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "ping"}},
    {
        "name": "my-tool.2",
        "parameters": {
            "type": "object",
            "properties": {
                "from": {"type": "string"},
                "größe": {"type": "number"},
                "ok": {"type": "boolean"},
            },
            "additionalProperties": False,
        },
    },
]


def merged(events):
    """Neighbouring deltas joined, so that two ways to cut one text can be compared."""
    joined = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, TextDelta | ReasoningDelta) and type(last) is type(event):
            joined[-1] = type(event)(last.text + event.text)
        else:
            joined.append(event)
    return joined


@pytest.fixture
def parse():
    """Parses pieces of an answer; every call gets the id "id"."""

    def run(dialect, *pieces, tools=TOOLS, reason="stop", opened_by=None):
        parser = StreamParser(dialect, check_tools(tools), opened_by=opened_by, new_id=lambda: "id")
        events = [event for piece in pieces for event in parser.push(piece)]
        run.examined = parser.examined
        return merged(events + parser.finish(reason))

    return run


@pytest.fixture
def tools():
    """Three declared tools."""
    return TOOLS
