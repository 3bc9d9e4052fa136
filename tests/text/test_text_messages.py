"""Promises of the conversation checks: every problem at once, and one shape for templates."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicpm.errors import MessageError
from minicpm.text.format import ChatFormat
from minicpm.text.messages import NO_RESULT, normalise_messages
from minicpm.text.schema import SchemaTooLarge, fold_schema
from minicpm.text.templates import names
from minicpm.text.tools import check_tools, fold_tools


def user(content="hi", **more):
    return {"role": "user", "content": content, **more}


def assistant(*ids, arguments="{}", **more):
    calls = [
        {"id": n, "type": "function", "function": {"name": f"f_{n}", "arguments": arguments}} for n in ids
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls, **more}


def result(identity, content):
    return {"role": "tool", "tool_call_id": identity, "content": content}


def test_all_problems_are_in_one_message():
    messages = [
        {"role": "robot", "content": "x"},
        user(3),
        "text",
        user([{"type": "input_audio"}]),
        user("a\udc00"),
    ]
    with pytest.raises(MessageError) as caught:
        normalise_messages(messages)
    for expected in ("messages[0].role is 'robot'", "messages[1].content is a number", "messages[2] is text"):
        assert expected in str(caught.value)
    for expected in (
        "messages[3].content[0] is a part of type 'input_audio'",
        "messages[4].content holds a lone",
    ):
        assert expected in str(caught.value)


def test_many_problems_are_counted():
    with pytest.raises(MessageError, match="and 90 more"):
        normalise_messages([user(None)] * 100)


@pytest.mark.parametrize("messages", [[], "hi", {"role": "user"}, None, 3])
def test_what_is_no_conversation_is_refused(messages):
    with pytest.raises(MessageError):
        normalise_messages(messages)


@pytest.mark.parametrize(
    "calls",
    ["f()", [3], [{}], [{"function": {"name": ""}}], [{"function": {"name": "f", "arguments": 3}}]],
)
def test_malformed_calls_are_refused(calls):
    with pytest.raises(MessageError, match=r"messages\[0\]\.tool_calls"):
        normalise_messages([{"role": "assistant", "content": "", "tool_calls": calls}])


def test_text_parts_are_joined_and_absent_content_of_a_call_is_empty():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turns = normalise_messages([user(parts), assistant("1")])
    assert [turn["content"] for turn in turns] == ["ab", ""]


def test_newer_and_older_role_names_are_understood():
    turns = normalise_messages([{"role": "developer", "content": "a"}, {"role": "function", "content": "b"}])
    assert [turn["role"] for turn in turns] == ["system", "tool"]


def test_arguments_are_parsed_and_a_broken_text_is_kept():
    texts = ['{"a": 1}', "{a: 1", "", "[1]", "[" * 100_000]
    turns = normalise_messages([assistant("1", arguments=text) for text in texts])
    found = [turn["tool_calls"][0]["function"]["arguments"] for turn in turns if "tool_calls" in turn]
    assert found == [{"a": 1}, {"_raw": "{a: 1"}, {}, {"_raw": "[1]"}, {"_raw": texts[-1]}]


def test_results_follow_the_order_of_their_calls_and_missing_ones_are_filled():
    turns = normalise_messages([user(), assistant("1", "2", "3"), result("3", "c"), result("1", "a"), user()])
    assert [turn["content"] for turn in turns[2:5]] == ["a", NO_RESULT, "c"]


def test_results_without_ids_and_unknown_ids_keep_their_place():
    plain = [{"role": "tool", "content": "x"}, {"role": "tool", "content": "y"}]
    assert [t["content"] for t in normalise_messages([assistant("1", "2"), *plain])[1:]] == ["x", "y"]
    turns = normalise_messages([assistant("1"), result("9", "z"), result("1", "a")])
    assert [turn["content"] for turn in turns[1:]] == ["a", "z"]


def test_a_call_at_the_end_waits_for_its_result():
    assert len(normalise_messages([user(), assistant("1")])) == 2


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thought"])
def test_reasoning_is_known_by_all_its_names(key):
    (turn,) = normalise_messages([{"role": "assistant", "content": "x", key: "why"}])
    assert (turn["reasoning_content"], turn["thought"]) == ("why", "why")


def test_deep_arguments_are_refused_and_the_callers_objects_stay_untouched():
    deep = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(MessageError, match="levels deep"):
        normalise_messages([assistant("1", arguments=deep)])
    messages = [user(), assistant("1", "2"), result("2", "b"), result("1", "a")]
    before = json.dumps(messages)
    normalise_messages(messages)
    assert json.dumps(messages) == before


def test_sixty_five_thousand_messages_are_fine():
    assert len(normalise_messages([user()] * 65_000)) == 65_000


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        (3, "describes a function"),
        ({"type": "web", "function": {"name": "f"}}, "only functions"),
        ({"name": "a b"}, "letters, digits"),
        ({"name": "x" * 65}, "letters, digits"),
        ({"name": "f", "parameters": []}, "not a JSON schema"),
        ({"name": "f", "description": 3}, "not text"),
        ({"name": "f", "description": "\ud800"}, "lone surrogate"),
    ],
)
def test_malformed_tools_are_refused(tool, message):
    with pytest.raises(MessageError, match=message):
        check_tools([{"name": "good"}, tool])


def test_two_tools_of_one_name_are_refused_and_a_thousand_different_ones_are_fine():
    with pytest.raises(MessageError, match="more than once"):
        check_tools([{"name": "f"}, {"name": "f"}])
    assert len(check_tools([{"name": f"f{n}"} for n in range(1000)])) == 1000


def test_tools_keep_the_callers_order_of_keys():
    tool = {"type": "function", "function": {"description": "d", "name": "f", "strict": True}}
    assert json.dumps(check_tools([tool])) == json.dumps([tool])


def fold(parameters):
    (tool,) = fold_tools(check_tools([{"name": "f", "parameters": parameters}]))
    return tool["function"]["parameters"]


def test_nullable_properties_are_no_longer_required():
    schema = {"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, "required": ["a"]}
    assert fold(schema) == {"properties": {"a": {"type": "string"}}, "required": []}


def test_scalar_alternatives_become_a_list_of_types():
    assert fold_schema({"oneOf": [{"type": "string"}, {"type": "integer"}]}) == {
        "type": ["string", "integer"]
    }


def test_object_alternatives_are_merged_and_all_optional():
    cat = {
        "title": "Cat",
        "type": "object",
        "properties": {"purrs": {"type": "boolean"}},
        "required": ["purrs"],
    }
    dog = {
        "title": "Dog",
        "type": "object",
        "properties": {"barks": {"type": "boolean"}},
        "required": ["barks"],
    }
    folded = fold_schema({"anyOf": [cat, dog]})
    assert set(folded["properties"]) == {"purrs", "barks"}
    assert "required" not in folded
    assert folded["description"] == "One of: Cat, Dog"


def test_references_are_inlined_and_recursion_is_cut():
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/N"}}}
    folded = fold_schema({"$defs": {"N": node}, "properties": {"head": {"$ref": "#/$defs/N"}}})
    inner, depth = folded["properties"]["head"], 0
    while "properties" in inner:
        inner, depth = inner["properties"]["next"], depth + 1
    assert (inner, depth) == ({"type": "object"}, 4)


def test_const_is_an_enum_of_one_and_all_of_is_merged():
    parts = [
        {"properties": {"a": {"const": 1}}, "required": ["a"]},
        {"properties": {"b": {}}, "required": ["b"]},
    ]
    folded = fold_schema({"allOf": parts})
    assert folded == {"properties": {"a": {"enum": [1]}, "b": {}}, "required": ["a", "b"]}


def test_a_schema_that_explodes_is_refused():
    wide = {f"p{n}": {"$ref": "#/$defs/A"} for n in range(30)}
    schema = {"$defs": {"A": {"properties": wide}}, "properties": wide}
    with pytest.raises(SchemaTooLarge):
        fold_schema(schema)
    with pytest.raises(MessageError, match="10000 parts"):
        check_tools([{"name": "f", "parameters": schema}])


@pytest.mark.parametrize(
    "schema", [True, [], {"$ref": "#/nowhere"}, {"properties": [], "required": 3}, {"anyOf": 3}]
)
def test_odd_schemas_do_not_raise(schema):
    assert isinstance(fold_schema(schema), dict)


KEYWORDS = (
    "type properties required enum items anyOf allOf oneOf const $ref $defs A default description".split()
)
KEYWORDS += "title pattern additionalProperties nullable a-b".split()
_VALUES = st.recursive(
    st.sampled_from(
        [
            None,
            True,
            0,
            -1.5,
            "",
            "x",
            "string",
            "object",
            "array",
            "null",
            "#/$defs/A",
            "<|im_end|>",
            b"x",
            (),
        ]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYWORDS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)
_MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "x"])},
    optional={
        "content": _VALUES,
        "tool_calls": _VALUES
        | st.lists(
            st.fixed_dictionaries(
                {"function": st.fixed_dictionaries({"name": st.just("f"), "arguments": _VALUES})}
            )
        ),
    },
)


@pytest.fixture(scope="module")
def chats(tmp_path_factory, write_small_tokenizer):
    folder = write_small_tokenizer(tmp_path_factory.mktemp("chats"))
    return [
        ChatFormat.from_folder(folder, template=name, dialect="xml-fn" if name == "minicpm5" else "py-call")
        for name in names()
    ]


@settings(max_examples=400, deadline=None)
@given(parameters=_VALUES, messages=st.lists(_MESSAGE, max_size=3))
def test_any_input_makes_a_prompt_or_a_message_error(parameters, messages, chats):
    for chat in chats:
        for given_messages, tools in (
            ([{"role": "user", "content": "x"}], [{"name": "f", "parameters": parameters}]),
            (messages, None),
        ):
            try:
                chat.prompt_ids(given_messages, tools=tools)
                chat.parser(tools=tools).push(
                    '<|tool_call_start|>f(a=1)<function name="f"><param name="a">1</param></function>'
                )
            except MessageError:
                pass
