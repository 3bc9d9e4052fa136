"""Promises of call reading: the rules of both dialects, one by one."""

import ast
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicpm.text.events import ReasoningDelta, TextDelta, ToolCall
from minicpm.text.parser.literal import parse_literal
from minicpm.text.parser.strings import BadLiteral


def block(*lines):
    return "<|tool_call_start|>\n```python\n" + "\n".join(lines) + "\n```\n<|tool_call_end|>\n"


@pytest.fixture
def arguments(parse):
    """The parsed arguments of the one call that a line of Python makes; None where it stays text."""

    def read(line):
        events = parse("py-call", block(line))
        if events == [TextDelta(block(line))]:
            return None
        (event,) = events
        assert isinstance(event, ToolCall)
        assert event.raw == line
        return json.loads(event.arguments)

    return read


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('get_weather(city="Paris",days=2)', {"city": "Paris", "days": 2}),
        ("get_weather ( city = 'Paris' , days = 2 , )", {"city": "Paris", "days": 2}),
        ("get_weather('Paris', 2)", {"city": "Paris", "days": 2}),
        ("get_weather('Paris', days=2)", {"city": "Paris", "days": 2}),
        ("get_weather(city='a)b', days=1)", {"city": "a)b", "days": 1}),
        ("get_weather(city='line\nbreak')", {"city": "line\nbreak"}),
        ('get_weather(city="""a "quoted" \'one\'""")', {"city": "a \"quoted\" 'one'"}),
        ("get_weather(city='a' 'b' \"c\")", {"city": "abc"}),
        ("get_weather(city=f'a{{b}}')", {"city": "a{b}"}),
        ("get_weather(city=r'a\\n')", {"city": "a\\n"}),
        ("get_weather(city='\\u4f60\\ud83d\\ude00\\x41\\n\\101')", {"city": "你😀A\nA"}),
        ("get_weather(city='x', note=None)", {"city": "x", "note": None}),
        ("my-tool.2(from='a', größe=-1.5, ok=true)", {"from": "a", "größe": -1.5, "ok": True}),
        ("my-tool.2(größe=+007)", {"größe": 7}),
        ("my-tool.2(ok=not True)", {"ok": False}),
        ("ping(a=[1, (2, 3), {'k': null}], b=())", {"a": [1, [2, 3], {"k": None}], "b": []}),
        ("ping(a=(1), b=(1,), c={1: 2, None: 3})", {"a": 1, "b": [1], "c": {"1": 2, "null": 3}}),
        ("ping(a=0x1F, b=1_000, c=1e3, d=.5, e=-0)", {"a": 31, "b": 1000, "c": 1000.0, "d": 0.5, "e": 0}),
        ("ping(date='2024-01-02', url='http://x-y/z_w')", {"date": "2024-01-02", "url": "http://x-y/z_w"}),
    ],
)
def test_calls_are_read(line, expected, arguments):
    assert arguments(line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("get_weather(city=3)", {"city": "3"}),
        ("get_weather(city=True)", {"city": "true"}),
        ("get_weather(city='x', days='3')", {"city": "x", "days": 3}),
        ("get_weather(city='x', days=3.0)", {"city": "x", "days": 3}),
        ("get_weather(city='x', days='soon')", {"city": "x", "days": "soon"}),
        ("get_weather(city='x', tags='one')", {"city": "x", "tags": ["one"]}),
        ("get_weather(city='x', tags='[\"a\", 1]')", {"city": "x", "tags": ["a", "1"]}),
        ("get_weather(city='x', unit='celsius')", {"city": "x", "unit": "Celsius"}),
        ("get_weather(city='x', unit='Kelvin')", {"city": "x", "unit": "Kelvin"}),
        ("get_weather(city='x', note=3)", {"city": "x", "note": "3"}),
        ("my-tool.2(ok='True', größe='2.5')", {"ok": True, "größe": 2.5}),
    ],
)
def test_values_are_turned_into_what_the_schema_asks_for(line, expected, arguments):
    assert arguments(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "nope()",
        "get_weather()",
        "get_weather(days=2)",
        "my-tool.2(other=1)",
        "get_weather('a', city='b')",
        "get_weather(city='a', city='b')",
        "get_weather(city='a', 'b')",
        "ping(1)",
        "ping(a=1e999)",
        "ping(a=x)",
        "ping(a=f'{x}')",
        "ping(a=b'x')",
        "ping(**{'a': 1})",
        "ping(a=...)",
        "ping(a:=1)",
        "ping(a={1, 2})",
        "ping(a={'k': 1, 'k': 2})",
        "ping(a='\\ud800')",
        "ping(a=[1 2])",
        "ping(a=(1])",
        "ping(a=__import__('os'))",
        "ping(a=" + "[" * 65 + "]" * 65 + ")",
        "ping(a=" + "9" * 5000 + ")",
        "x = ping()",
        "(ping)()",
        "ping",
    ],
)
def test_what_is_no_valid_call_stays_text(line, arguments):
    assert arguments(line) is None


def test_blocks_may_have_no_fence_and_calls_no_line_of_their_own(parse):
    for body in (
        "ping()ping()",
        "ping();ping()",
        "[ping(), ping()]",
        "(ping(), ping())",
        "```\nping()\nping()```",
    ):
        events = parse("py-call", f"<|tool_call_start|>{body}<|tool_call_end|>")
        assert [event.name for event in events] == ["ping", "ping"], body


def test_only_the_exact_language_tag_is_taken_off(parse):
    tools = [{"name": "python_run"}, {"name": "thon"}]
    (event,) = parse("py-call", "<|tool_call_start|>```python_run()```<|tool_call_end|>", tools=tools)
    assert event.name == "python_run"
    (event,) = parse("py-call", "<|tool_call_start|>```python\nthon()```<|tool_call_end|>", tools=tools)
    assert event.name == "thon"


def test_text_between_and_around_several_blocks_is_content(parse):
    events = parse("py-call", "a\n" + block("ping()") + "b\n" + block("ping()") + "c")
    assert [getattr(event, "text", "call") for event in events] == ["a\n", "call", "b\n", "call", "c"]


def test_a_cut_off_answer_gives_its_complete_calls_and_the_rest_as_text(parse):
    events = parse(
        "py-call", "<|tool_call_start|>\n```python\nping()\nget_weather(city='Par", reason="length"
    )
    assert [type(event) for event in events] == [ToolCall, TextDelta]
    assert events[1].text == "\nget_weather(city='Par"


def test_a_mixed_block_keeps_its_calls_and_shows_the_rest(parse):
    events = parse("py-call", block("ping()", "nope()", "ping()"))
    assert [type(event) for event in events] == [ToolCall, TextDelta, ToolCall]
    assert events[1].text == "\nnope()"


def test_without_declared_tools_nothing_is_a_call(parse):
    text = block("ping()") + '<function name="ping"></function>'
    for dialect in ("py-call", "xml-fn", "none"):
        assert parse(dialect, text, tools=[]) == [TextDelta(text)]


def test_a_call_that_ends_the_answer_inside_a_thought_counts(parse):
    for dialect, call in (("py-call", block("ping()")), ("xml-fn", '<function name="ping"></function>\n')):
        first, second = parse(dialect, "<think>\nhm " + call)
        assert (first, second.name) == (ReasoningDelta("hm "), "ping")
        assert parse(dialect, "<think>\nhm " + call + "x") == [ReasoningDelta("hm " + call + "x")]
        assert parse(dialect, "<think>\nhm " + call, reason="length") == [ReasoningDelta("hm " + call)]


def test_an_invalid_call_inside_a_thought_is_thought(parse):
    text = "hm " + block("nope()")
    assert parse("py-call", text, opened_by="<think>") == [ReasoningDelta(text)]


def xml(name, **values):
    inner = "".join(f'<param name="{key}">{value}</param>' for key, value in values.items())
    return f'<function name="{name}">{inner}</function>'


@pytest.fixture
def xml_arguments(parse):
    """The parsed arguments of the one call in an XML text; None where it stays text."""

    def read(text):
        events = parse("xml-fn", text)
        if events == [TextDelta(text)]:
            return None
        (event,) = events
        assert event.raw == text
        return json.loads(event.arguments)

    return read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (xml("get_weather", city="Paris", days="2"), {"city": "Paris", "days": 2}),
        (xml("get_weather", city="007"), {"city": "007"}),
        (xml("get_weather", city="x", note="123"), {"city": "x", "note": "123"}),
        (xml("get_weather", city="\n    indented\n\n"), {"city": "    indented\n"}),
        (xml("get_weather", city="a &lt;&amp;&quot;&apos;&gt; &nbsp; & b"), {"city": "a <&\"'> &nbsp; & b"}),
        (xml("get_weather", city="&amp;lt;"), {"city": "&lt;"}),
        (xml("get_weather", city="<![CDATA[&lt;\n]]>"), {"city": "&lt;\n"}),
        (xml("get_weather", city="\n<![CDATA[a]]]]><![CDATA[>b]]>\n"), {"city": "a]]>b"}),
        (xml("get_weather", city="x<y && <b>z</b>"), {"city": "x<y && <b>z</b>"}),
        (xml("get_weather", city="x", tags='["a"]'), {"city": "x", "tags": ["a"]}),
        (xml("get_weather", city="x", tags="['a', None]"), {"city": "x", "tags": ["a", None]}),
        (xml("my-tool.2", ok="True", größe="2"), {"ok": True, "größe": 2}),
        (
            xml("ping", a="{'k': True}", b='{"k": true}', c="free text"),
            {"a": {"k": True}, "b": {"k": True}, "c": "free text"},
        ),
        ("<function name='ping'>\n</function>", {}),
        ('<functionname="ping"><paramname="x">1</param></function>', {"x": 1}),
        ('<function\u0120name="ping"\u0120>\u0120</function>', {}),
        ('<function name="ping"><arguments><param name="x">1</param></arguments></function>', {"x": 1}),
    ],
)
def test_xml_calls_are_read(text, expected, xml_arguments):
    assert xml_arguments(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        xml("nope"),
        xml("get_weather"),
        xml("get_weather", city="x", other="1"),
        '<function name="get_weather"><param name="city">a</param><param name="city">b</param></function>',
        '<function name="get_weather"><param name="city">a</function>',
        '<function name="get_weather">text<param name="city">a</param></function>',
        '<function name="get_weather"><param>a</param></function>',
        '<function name="get_weather"><param name="city">a<param name="days">2</param></function>',
        '<function name=""></function>',
        "<function></function>",
        "<functional>",
        ' name="get_weather"> name="city">Paris',
    ],
)
def test_what_is_no_valid_xml_call_stays_text(text, xml_arguments):
    assert xml_arguments(text) is None


def test_a_call_behind_a_broken_one_is_found(parse):
    text = '<function name="get_weather"><param name="city">a' + xml("ping")
    events = parse("xml-fn", text)
    assert events[-1].name == "ping"


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(value=_JSON)
def test_python_and_json_spellings_of_a_value_are_read(value):
    assert parse_literal(json.dumps(value)) == value
    assert parse_literal(json.dumps(value, ensure_ascii=False)) == value
    assert parse_literal(repr(value)) == value


_SOURCE = st.lists(
    st.sampled_from(
        [*"'\"\\[](){},:+- .0123xnrfu\n", "True", "None", "\\n", "\\x41", "'''", "{}", "not ", "1e3", "_"]
    ),
    max_size=12,
).map("".join)


@settings(max_examples=1500, deadline=None)
@given(source=_SOURCE)
def test_what_python_reads_as_json_like_literal_is_read_the_same(source):
    try:
        expected = ast.literal_eval(source)
        json.dumps(expected, allow_nan=False)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, SyntaxWarning):
        expected = BadLiteral
    try:
        found = parse_literal(source.strip())
    except BadLiteral:
        # Bytes, sets and complex numbers are not JSON; expressions and comments are no literals.
        return
    if expected is not BadLiteral:
        assert json.dumps(found) == json.dumps(expected)


@settings(max_examples=500, deadline=None)
@given(source=st.text(max_size=20))
def test_any_text_is_a_literal_or_refused(source):
    try:
        json.dumps(parse_literal(source), allow_nan=False)
    except BadLiteral:
        pass
