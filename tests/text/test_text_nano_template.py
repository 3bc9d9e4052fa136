"""The packaged model's template file and the built-in format of the same name write the same prompts."""

from pathlib import Path

import pytest

import minicpm
from minicpm.text.format import ChatFormat
from minicpm.text.jinja_template import compile_template, render
from minicpm.text.template_files import is_packaged, read_own_template

PACKAGE = Path(minicpm.__file__).parent
TOOL = {
    "name": "book",
    "description": "Books.",
    "parameters": {
        "properties": {
            "kind": {"type": "string", "enum": ["a", "b"]},
            "nights": {"type": "integer", "default": 2},
            "tags": {"type": "array"},
            "any": {},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        },
        "required": ["kind"],
    },
}
CALL = {"function": {"name": "book", "arguments": {"kind": "ü", "tags": [1, None, True]}}}
CHAT = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "x", "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "ok"},
    {"role": "assistant", "content": "done"},
    {"role": "user", "content": "more"},
]


@pytest.mark.parametrize("messages", [CHAT, CHAT[1:], [{"role": "system", "content": ""}, *CHAT[1:]]])
@pytest.mark.parametrize("tools", [None, [TOOL, {"name": "ping"}]])
@pytest.mark.parametrize("thinking", ["on", "off", "auto"])
def test_both_write_the_same_prompt(messages, tools, thinking, small_folder):
    chat = ChatFormat.from_folder(small_folder(), template="nano", dialect="py-call")
    source = (PACKAGE / "train" / "nano" / "chat_template.jinja").read_text(encoding="utf-8")
    context = {"messages": messages, "tools": chat._tools(tools) or None, "add_generation_prompt": True}
    if thinking != "auto":
        context["enable_thinking"] = thinking == "on"
    expected = render(compile_template(source), context, 1 << 20)
    assert chat.prompt_text(messages, tools=tools, thinking=thinking) == expected


def test_the_packaged_template_needs_no_child_process():
    folder = PACKAGE / "assets" / "nano"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; train and export the packaged model to have it")
    chat = ChatFormat.from_folder(folder, template="chatml", dialect="py-call")
    assert is_packaged(read_own_template(folder).default)
    assert chat.prompt_text(CHAT[1:2]).endswith("assistant\n<think>\n")
    assert chat._rendering._sandbox._process is None
