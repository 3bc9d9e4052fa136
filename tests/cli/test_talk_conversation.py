"""A conversation is kept, taken back, saved and loaded without losing or inventing anything."""

import json

import pytest

from minicpm.cli.talk.conversation import Conversation
from minicpm.errors import BadInput, MessageError


@pytest.fixture
def talked() -> Conversation:
    conversation = Conversation("Be kind.")
    conversation.ask("one?")
    conversation.answer("1", "thinking of one")
    conversation.ask("two?")
    conversation.answer("2")
    return conversation


def test_the_system_message_is_set_changed_and_removed(talked):
    rest = talked.messages[1:]
    talked.system = "Be brief."
    assert talked.messages == [{"role": "system", "content": "Be brief."}, *rest]
    talked.system = None
    assert talked.messages == rest
    assert talked.system is None


def test_taking_back_returns_the_questions_from_last_to_first(talked):
    assert [talked.take_back() for _ in range(3)] == ["two?", "one?", None]
    assert talked.messages == [{"role": "system", "content": "Be kind."}]


def test_a_reset_keeps_the_system_message(talked):
    talked.reset()
    assert talked.messages == [{"role": "system", "content": "Be kind."}]


def test_thinking_is_kept_beside_the_answer(talked):
    assert talked.messages[2] == {"role": "assistant", "content": "1", "reasoning_content": "thinking of one"}


def test_a_saved_conversation_is_loaded_as_it_was(talked, tmp_path):
    talked.save(tmp_path / "chat.json", {"thinking": "off", "sampling": {"seed": 1}})
    fresh = Conversation()
    assert fresh.load(tmp_path / "chat.json") == {"thinking": "off", "sampling": {"seed": 1}}
    assert fresh.messages == talked.messages
    talked.save(tmp_path / "chat.json", {})


def test_a_plain_list_of_messages_is_loaded_too(tmp_path):
    messages = [{"role": "user", "content": "你好"}]
    (tmp_path / "list.json").write_text(json.dumps(messages))
    conversation = Conversation()
    assert conversation.load(tmp_path / "list.json") == {}
    assert conversation.messages == messages


def test_a_file_of_another_kind_is_not_replaced(talked, tmp_path):
    precious = tmp_path / "thesis.txt"
    precious.write_text("four years of work")
    with pytest.raises(BadInput, match="not replaced"):
        talked.save(precious, {})
    assert precious.read_text() == "four years of work"


@pytest.mark.parametrize("content", [b"", b"{", b"3", b"[[]]", b'{"messages": 3}', b"\xff", b"[" * 100_000])
def test_what_is_no_conversation_is_refused_and_changes_nothing(content, talked, tmp_path):
    (tmp_path / "bad.json").write_bytes(content)
    before = list(talked.messages)
    with pytest.raises((BadInput, MessageError)):
        talked.load(tmp_path / "bad.json")
    assert talked.messages == before


def test_files_that_cannot_be_reached_are_refused(talked, tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        talked.load(tmp_path / "absent.json")
    with pytest.raises(BadInput, match="cannot be written"):
        talked.save(tmp_path / "absent" / "chat.json", {})
