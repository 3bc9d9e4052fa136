"""ScriptedChat replays its answers and remembers what it was asked."""

import pytest

from minicpm.testing import ScriptedChat
from minicpm.text.events import End, ReasoningDelta, TextDelta, ToolCall

QUESTION = [{"role": "user", "content": "hello"}]
CALL = ToolCall("call-1", "add", '{"a": 1}', "add(a=1)")


def test_a_text_is_one_delta_and_an_end():
    assert list(ScriptedChat(["hi"]).chat(QUESTION)) == [TextDelta("hi"), End("stop")]


def test_events_are_replayed_as_they_are():
    events = [ReasoningDelta("hm"), TextDelta("hi"), End("length")]
    assert list(ScriptedChat([events]).chat(QUESTION)) == events


def test_an_answer_with_a_tool_call_ends_with_tool_calls():
    assert list(ScriptedChat([[CALL]]).chat(QUESTION)) == [CALL, End("tool_calls")]


def test_an_empty_answer_still_ends():
    assert list(ScriptedChat([[]]).chat(QUESTION)) == [End("stop")]


def test_answers_come_in_order_and_run_out_with_the_numbers():
    chat = ScriptedChat(["one", "two"])
    assert [next(chat.chat(QUESTION)).text for _ in range(2)] == ["one", "two"]
    assert chat.remaining == 0
    with pytest.raises(IndexError, match="asked 3 times for 2 answers"):
        chat.chat(QUESTION)


def test_calls_are_recorded_when_made_and_not_changed_afterwards():
    chat, messages = ScriptedChat(["a", "b"]), [{"role": "user", "content": "hello"}]
    chat.chat(messages, thinking="off", temperature=0.5)
    messages[0]["content"] = "changed"
    (call,) = chat.calls
    assert call.messages == QUESTION
    assert (call.tools, call.thinking, call.sampling) == (None, "off", {"temperature": 0.5})
