"""Promises of the built-in formats: golden prompts and golden ids."""

import pytest
from tokenizers import Tokenizer as Backend

from minicpm.errors import MessageError, TemplateError
from minicpm.text.format import ChatFormat
from minicpm.text.templates import Conversation, built_in, names


def ids(text):
    """A list of ids, written close together."""
    return [int(number) for number in text.split()]


CHAT = [
    {"role": "system", "content": "You are helpful."},
    {"role": "user", "content": "你好，MiniCPM!\n\tx = 1"},
    {"role": "assistant", "content": "Hello  world 👩‍🚀"},
    {"role": "user", "content": " 1234"},
]
CHATML = (
    "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\n你好，MiniCPM!\n\tx = 1<|im_end|>\n"
    "<|im_start|>assistant\nHello  world 👩‍🚀<|im_end|>\n<|im_start|>user\n 1234<|im_end|>\n"
    "<|im_start|>assistant\n"
)
CHATML_IDS = ids(
    "1 73441 2070 5 6577 1502 11061 72 73440 59320 5 73441 3060 5 23523 65 53741 6061 59365 73 5 6 "
    "59356 59320 64 59320 59345 73440 59320 5 73441 16434 5 15934 1345 11262 59320 69282 72217 64718 "
    "73440 59320 5 73441 3060 5 59320 59345 59349 59362 59370 73440 59320 5 73441 16434 5"
)
NO_THOUGHT_IDS = [59396, 30062, 59388, 5, 5, 1731, 30062, 59388, 5, 5]
V1 = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "你好，MiniCPM!"},
    {"role": "assistant", "content": " Hello\n  world 42 👩‍🚀 "},
    {"role": "user", "content": "1234 é\n"},
]
V1_IDS = {
    "minicpm-1b-73440": ids(
        "1 1413 59396 4194 59388 23523 65 53741 6061 59365 73 59396 10850 59388 15934 5 1345 11262 "
        "59320 59370 59349 59320 69282 72217 64718 59396 4194 59388 59345 59349 59362 59370 14543 "
        "59396 10850 59388"
    ),
    "minicpm-2b-122753": ids(
        "1 1413 95396 4194 95388 23523 65 53741 6061 95365 73 95396 10850 95388 15934 5 1345 11262 "
        "95320 95370 95349 95320 109287 116116 120486 95396 4194 95388 95345 95349 95362 95370 14543 "
        "95396 10850 95388"
    ),
}


@pytest.mark.parametrize("name", V1_IDS)
def test_v1_conversations_have_their_golden_ids(name, real_folder):
    chat = ChatFormat.from_folder(real_folder(name), template="minicpm-v1", dialect="none")
    text = "S<用户>你好，MiniCPM!<AI>Hello\n  world 42 👩‍🚀<用户>1234 é<AI>"
    assert chat.prompt_text(V1) == text
    assert chat.prompt_ids(V1) == V1_IDS[name]
    assert (
        chat.prompt_ids(V1) == Backend.from_file(str(real_folder(name) / "tokenizer.json")).encode(text).ids
    )
    assert chat.prompt_ids(V1, generate=False) == V1_IDS[name]


@pytest.mark.parametrize(("template", "dialect"), [("chatml", "py-call"), ("minicpm4.1", "py-call")])
def test_chatml_conversations_have_their_golden_ids(template, dialect, real_folder):
    chat = ChatFormat.from_folder(real_folder("minicpm3-73448"), template=template, dialect=dialect)
    assert chat.prompt_text(CHAT) == CHATML
    assert chat.prompt_ids(CHAT) == CHATML_IDS
    assert chat.prompt_ids(CHAT, generate=False) == CHATML_IDS[:-3]
    assert chat.stop_ids == (2, 73440)


def test_a_4_1_prompt_without_thinking_ends_with_an_empty_thought(real_folder):
    chat = ChatFormat.from_folder(real_folder("minicpm3-73448"), template="minicpm4.1", dialect="py-call")
    assert chat.prompt_ids(CHAT, thinking="off") == CHATML_IDS + NO_THOUGHT_IDS
    assert chat.prompt_ids(CHAT, thinking="on") == CHATML_IDS


@pytest.mark.parametrize(
    ("suffix", "thinking", "thinks"),
    [
        ("/no_think", "auto", False),
        ("/no_think \n", "auto", False),
        ("/think", "auto", True),
        ("/no_think", "on", True),
        ("/think", "off", False),
        (" and /no_think is what?", "auto", True),
    ],
)
def test_a_4_1_query_may_end_with_a_switch(suffix, thinking, thinks, small_folder):
    chat = ChatFormat.from_folder(small_folder(), template="minicpm4.1", dialect="py-call")
    earlier = [{"role": "user", "content": "a /no_think"}, {"role": "assistant", "content": "b"}]
    prompt = chat.prompt_text([*earlier, {"role": "user", "content": "hello" + suffix}], thinking=thinking)
    assert prompt.endswith("assistant\n" if thinks else "assistant\n<think>\n\n</think>\n\n")


def test_a_4_1_history_holds_no_thoughts(small_folder):
    chat = ChatFormat.from_folder(small_folder(), template="minicpm4.1", dialect="py-call")
    answers = [{"role": "assistant", "content": "<think>\nwhy\n</think>\n\nyes"}]
    answers += [{"role": "assistant", "content": "yes", "reasoning_content": "why"}]
    for answer in answers:
        prompt = chat.prompt_text([{"role": "user", "content": "a"}, answer], generate=False)
        assert prompt == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"


BOOKING = {
    "type": "function",
    "function": {
        "name": "book_room",
        "description": "Reserve a room.",
        "parameters": {
            "type": "object",
            "properties": {
                "room_kind": {"type": "string", "enum": ["small", "large"], "description": "Size"},
                "nights": {"type": "integer", "default": 2},
                "guests": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "name": {"type": "string"},
                            "age": {"type": "integer", "description": "Years"},
                        },
                        "required": ["name"],
                    },
                },
                "note": {"type": "string", "default": "none", "description": "Free text"},
                "vip": {"type": "boolean", "default": True},
            },
            "required": ["room_kind"],
        },
    },
}
PYTHON_BLOCK = '''```python
from enum import Enum
from typing import List, Dict, Optional
from pydantic import BaseModel, Field



class Room_kind(Enum):
    enum_0 = "small"
    enum_1 = "large"


class Guests(BaseModel):
    name: str
    age: Optional[int] = Field(None, description="Years")


def book_room(room_kind, nights=2, guests=None, note="none", vip=True):
    """Reserve a room.

    Args:
        room_kind: Room_kind = Field(..., description="Size")
        nights: Optional[int] = 2
        guests: Optional[List[Guests]] = None
        note: Optional[str] = Field("none", description="Free text")
        vip: Optional[bool] = True
    """


def ping():
    """Check.
    """

```
'''
CALLED = """<|im_start|>assistant
<|thought_start|>
T
<|thought_end|>
<|tool_call_start|>
```python
book_room(room_kind="small",nights=1,vip=false)
ping()
```
<|tool_call_end|>
Done.<|im_end|>
<|im_start|>tool
ok<|im_end|>
<|im_start|>tool
pong<|im_end|>
<|im_start|>assistant
"""


def call(name, identity, **arguments):
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool_chat(content="Done."):
    calls = [call("book_room", "1", room_kind="small", nights=1, vip=False), call("ping", "2")]
    return [
        {"role": "system", "content": "SYS"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": content, "thought": "T", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "2", "content": "pong"},
        {"role": "tool", "tool_call_id": "1", "content": "ok"},
    ]


def test_python_tools_have_the_published_layout(small_folder):
    chat = ChatFormat.from_folder(small_folder(), template="chatml", dialect="py-call")
    prompt = chat.prompt_text(tool_chat(), tools=[BOOKING, {"name": "ping", "description": "Check."}])
    assert prompt.startswith("<|im_start|>system\nSYS\n# Functions\n")
    assert PYTHON_BLOCK in prompt
    assert prompt.endswith("<|im_start|>user\nhi<|im_end|>\n" + CALLED)


def test_python_tools_without_a_system_text_begin_with_the_line_break(small_folder):
    chat = ChatFormat.from_folder(small_folder(), template="chatml", dialect="py-call")
    prompt = chat.prompt_text([{"role": "user", "content": "hi"}], tools=[{"name": "ping"}])
    assert prompt.startswith("<|im_start|>system\n\n# Functions\n")


def test_python_types_follow_the_schema(small_folder):
    kinds = {
        "a": {"type": ["string", "integer"]},
        "b": {"type": "object", "additionalProperties": {"type": "number"}},
        "c": {"type": "object"},
        "d": {},
        "e": {"type": "array", "items": {"type": "array", "items": {"type": "null"}}},
        "f": {"type": "string", "pattern": "x+", "title": "F"},
        "roomKind of-day": {"const": 1},
    }
    tool = {"name": "f", "parameters": {"properties": kinds, "required": list(kinds)}}
    chat = ChatFormat.from_folder(small_folder(), template="chatml", dialect="py-call")
    prompt = chat.prompt_text([{"role": "user", "content": "hi"}], tools=[tool])
    for line in (
        "a: Union[str, int]\n",
        "b: Dict[str, float]\n",
        "c: Dict[str, Any]\n",
        "d: Any\n",
        "e: List[List[None]]\n",
        'f: str = Field(..., regex="x+", title="F")\n',
        "class Roomkind Of-Day(Enum):\n    enum_0 = 1\n",
    ):
        assert line in prompt


def test_a_description_cannot_close_the_fence(small_folder):
    chat = ChatFormat.from_folder(small_folder(), template="chatml", dialect="py-call")
    tool = {
        "name": "f",
        "description": "a ```\nb",
        "parameters": {"properties": {"x": {"description": "```"}}},
    }
    prompt = chat.prompt_text([{"role": "user", "content": "hi"}], tools=[tool])
    assert prompt.count("```python") == 2  # the tools and the answer's layout
    assert prompt.count("```") == 4


def test_minicpm5_prompts_have_the_published_shape(small_folder):
    chat = ChatFormat.from_folder(small_folder(), template="minicpm5", dialect="xml-fn")
    prompt = chat.prompt_text(tool_chat(), tools=[BOOKING])
    assert prompt.startswith("<s><|im_start|>system\nSYS\n\n# Tools\n")
    assert '<tools>\n{"type": "function", "function": {"name": "book_room", "description"' in prompt
    assert prompt.endswith(
        "<|im_start|>assistant\n<think>\nT\n</think>\n\nDone.\n"
        '<function name="book_room"><param name="room_kind">small</param><param name="nights">1</param>'
        '<param name="vip">false</param></function>\n<function name="ping"></function><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nok\n</tool_response>\n<tool_response>\npong\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert chat.prompt_ids(tool_chat())[:2].count(1) == 1


def test_minicpm5_places_tools_where_the_system_text_says(small_folder):
    chat = ChatFormat.from_folder(small_folder(), template="minicpm5", dialect="xml-fn")
    system = {"role": "system", "content": "A <tool_def_sep> B"}
    prompt = chat.prompt_text([system, {"role": "user", "content": "hi"}], tools=[{"name": "ping"}])
    assert prompt.startswith("<s><|im_start|>system\nA # Tools\n")
    assert "user directly. B<|im_end|>" in prompt


def test_minicpm5_values_with_markup_are_cdata(small_folder):
    chat = ChatFormat.from_folder(small_folder(), template="minicpm5", dialect="xml-fn")
    turn = {
        "role": "assistant",
        "content": "",
        "tool_calls": [call("f", "1", a="x<y", b="]]>\n", c={"d": None})],
    }
    prompt = chat.prompt_text([turn], generate=False)
    assert '<param name="a"><![CDATA[x<y]]></param>' in prompt
    assert '<param name="b"><![CDATA[]]]]><![CDATA[>\n]]></param>' in prompt
    assert '<param name="c">{"d": null}</param>' in prompt


def test_minicpm5_keeps_thoughts_behind_the_last_query_only(small_folder):
    chat = ChatFormat.from_folder(small_folder(), template="minicpm5", dialect="xml-fn")
    user = {"role": "user", "content": "q"}
    answer = {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nyes"}
    prompt = chat.prompt_text([user, answer, user, answer, {"role": "assistant", "content": "<think>open"}])
    assert prompt.count("<think>\n\n</think>\n\nyes") == 1
    assert prompt.count("<think>\nwhy\n</think>\n\nyes") == 1
    assert "assistant\n<think>open<|im_end|>" in prompt
    endings = {"on": "<think>\n", "off": "<think>\n\n</think>\n\n", "auto": "assistant\n"}
    for thinking, ending in endings.items():
        assert chat.prompt_text([user], thinking=thinking).endswith(ending)


def test_nano_prompts_have_their_shape(small_folder):
    chat = ChatFormat.from_folder(small_folder(), template="nano", dialect="py-call")
    prompt = chat.prompt_text(tool_chat(content="Wait."), tools=[BOOKING, {"name": "ping"}], thinking="off")
    assert prompt == (
        "<|im_start|>system\nSYS\n\n# Functions\n"
        'book_room(room_kind: "small"|"large", nights: int = 2, guests: list = None, note: str = "none", '
        "vip: bool = true): Reserve a room.\nping(): <|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        '<|im_start|>assistant\nWait.<|tool_call_start|>\n```python\nbook_room(room_kind="small",nights=1,vip=false)\n'
        "ping()\n```\n<|tool_call_end|><|im_end|>\n<|im_start|>tool\nok<|im_end|>\n<|im_start|>tool\npong<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    for thinking in ("on", "auto"):
        text = chat.prompt_text([{"role": "user", "content": "hi"}], thinking=thinking)
        assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n"


def test_formats_without_tools_say_so(small_folder):
    for template in ("minicpm-v1", "chatml"):
        chat = ChatFormat.from_folder(small_folder(), template=template, dialect="none")
        with pytest.raises(MessageError, match="no place for tools"):
            chat.prompt_ids([{"role": "user", "content": "hi"}], tools=[{"name": "ping"}])


def test_unknown_formats_are_answered_with_the_known_ones(small_folder):
    with pytest.raises(TemplateError, match="chatml, minicpm-v1"):
        ChatFormat.from_folder(small_folder(), template="alpaca", dialect="none")
    with pytest.raises(TemplateError, match="py-call"):
        ChatFormat.from_folder(small_folder(), template="chatml", dialect="json")


def test_every_format_renders_a_conversation_of_one_turn_of_any_role():
    for name in names():
        for role in ("system", "user", "assistant", "tool"):
            for generate in (True, False):
                turn = {"role": role, "content": "x"}
                assert "x" in built_in(name).render(Conversation([turn], [], None, generate))
