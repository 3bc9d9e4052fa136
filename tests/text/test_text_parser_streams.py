"""Promises of the stream parser: one result however the text is cut, nothing lost, linear work."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicpm.text.events import ReasoningDelta, TextDelta, ToolCall
from minicpm.text.parser import DIALECTS, StreamParser
from minicpm.text.parser.answer import MAX_HELD
from minicpm.text.tools import check_tools

FIXTURES = {
    "none": [
        "Hello <b>world</b>",
        "<think>\nhm <|tool_call_start|>\n</think>\n\nyes <think>",
        '<function name="ping"></function><|tool_call_start|>\nping()\n<|tool_call_end|>',
    ],
    "py-call": [
        "<|thought_start|>\nI look.\n<|thought_end|>\n"
        '<|tool_call_start|>\n```python\nget_weather(city="Paris",days=2)\n'
        "ping()\n```\n<|tool_call_end|>\nDone.",
        "<think>\na < b\n\n</think>\n\n42",
        "Let me see.\n<|tool_call_start|>\n```\nping(); ping()\n```\n<|tool_call_end|>\nand\n"
        "<|tool_call_start|>[ping(), ping()]<|tool_call_end|>",
        "<|tool_call_start|>\nnope(x=1)\nping() extra\n"
        "get_weather(city='''a'b\n''')\n<|tool_call_end|>\n\nend",
        '<|tool_call_start|>\n```python\nping()\nget_weather(city="Par',
        "<|tool_call_start|>\n```python\n```\n<|tool_call_end|>",
        "<|tool_call_start|>prose (with brackets) and it's fine\nping()<|tool_call_end|>",
        "<think>\nmaybe <|tool_call_start|>\nping()\n<|tool_call_end|>\n no\n</think>\n\nfine",
        "<think>\nmaybe <|tool_call_start|>\nping()\n<|tool_call_end|>\n",
        "<think>\nmaybe <|tool_call_start|>\nping(</think>x",
        "a <|tool_call_star and <|tool_call_start| and <",
        "<|tool_call_start|>\n```python\n"
        'my-tool.2(from="<|tool_call_en", größe=-1e3, ok=true)\n```\n<|tool_call_end|>',
        "<|tool_call_start|>\nget_weather(city='open <|tool_call_end|>\nnext "
        "<|tool_call_start|>ping()<|tool_call_end|>",
    ],
    "xml-fn": [
        '<think>\nhm\n</think>\n\nOK\n<function name="get_weather"><param name="city">Paris</param>'
        '<param name="days">2</param></function>\n<function name="ping"></function>',
        '<function name="get_weather"><param name="city">'
        "<![CDATA[a]]]]><![CDATA[>b</param>]]></param></function>end",
        '<function name="get_weather"><param name="city">x < y & z &amp; <b></param></function>',
        '<function name="nope"></function> <functional> <function> <function name=>',
        '<function name="get_weather"><param name="city">1</function><function name="ping"></function>',
        '<function name="get_weather"><param name="city">1<param name="days">2</param></function>',
        '<function\u0120name="ping">\n</function>\n<functionname="ping"><arguments></arguments></function>',
        '<think>so <function name="ping"></function>\n<function name="ping"></function>\n',
        '<think>so <function name="ping"></function> or not\n</think>\n\n<function name="pi',
    ],
}
CASES = [(dialect, text) for dialect, texts in FIXTURES.items() for text in texts]


@pytest.mark.parametrize(("dialect", "text"), CASES)
def test_every_split_gives_the_same_result(dialect, text, parse):
    whole = parse(dialect, text)
    for cut in range(len(text) + 1):
        assert parse(dialect, text[:cut], text[cut:]) == whole, text[:cut]
    assert parse(dialect, *text) == whole
    for step in (2, 3, 5, 7):
        assert parse(dialect, *[text[n : n + step] for n in range(0, len(text), step)]) == whole


@pytest.mark.parametrize(("dialect", "text"), CASES)
def test_every_prefix_is_parsed_and_nothing_of_it_is_lost(dialect, text, parse):
    for end in range(len(text) + 1):
        for reason in ("stop", "length"):
            events = parse(dialect, *text[:end], reason=reason)
            assert is_complete(events, text[:end]), text[:end]


FRAMING = ("<|thought_start|>", "<|thought_end|>", "<think>", "</think>", "\n")
CALL_FRAMING = ("<|tool_call_start|>", "<|tool_call_end|>", "```python", "```", *" ;,[]()")


def is_complete(events, text):
    """Whether `text` is what the events show, in order, with nothing but framing in between."""
    shown = "".join(event.raw if isinstance(event, ToolCall) else event.text for event in events)
    called = any(isinstance(event, ToolCall) for event in events)
    framing = FRAMING + CALL_FRAMING if called else FRAMING
    reached = [set() for _ in range(len(text) + 1)]  # per place in the text, the places in what is shown
    reached[0].add(0)
    for place in range(len(text)):
        reached[place + 1].update(n + 1 for n in reached[place] if shown[n : n + 1] == text[place])
        for frame in framing:
            if text.startswith(frame, place):
                reached[place + len(frame)].update(reached[place])
    return len(shown) in reached[-1]


_FRAGMENTS = [
    *(
        "<think>",
        "</think>",
        "<|thought_start|>",
        "<|thought_end|>",
        "<|tool_call_start|>",
        "<|tool_call_end|>",
    ),
    *(
        "```",
        "```python\n",
        "ping()",
        "ping",
        "(",
        ")",
        "get_weather(city='x')",
        "city=",
        "days='3'",
        "'",
        '"',
        '"""',
    ),
    *(
        "\\",
        "\n",
        " ",
        ";",
        ",",
        "[",
        "]",
        "{",
        "}",
        "=",
        "<",
        ">",
        "x",
        "é",
        "\u0120",
        "&lt;",
        "]]>",
        "<![CDATA[",
    ),
    *(
        '<function name="ping">',
        "</function>",
        '<param name="city">',
        "</param>",
        "<function",
        "<param ",
        "name=",
    ),
]


@settings(max_examples=600, deadline=None)
@given(
    dialect=st.sampled_from(DIALECTS),
    text=st.lists(st.one_of(st.sampled_from(_FRAGMENTS), st.text(max_size=3)), max_size=25).map("".join),
    cuts=st.lists(st.integers(0, 200), max_size=6),
    opened=st.sampled_from([None, "<think>"]),
    reason=st.sampled_from(["stop", "length"]),
)
def test_injected_markers_neither_raise_nor_depend_on_the_cut(dialect, text, cuts, opened, reason):
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[a:b] for a, b in pairwise(places)]
    whole = run(dialect, [text], opened, reason)
    assert run(dialect, pieces, opened, reason) == whole
    assert run(dialect, list(text), opened, reason) == whole
    assert is_complete(whole, text)


def run(dialect, pieces, opened=None, reason="stop"):
    tools = check_tools(
        [{"name": "ping"}, {"name": "get_weather", "parameters": {"properties": {"city": {}}}}]
    )
    parser = StreamParser(dialect, tools, opened_by=opened, new_id=lambda: "id")
    joined = []
    for event in [*(event for piece in pieces for event in parser.push(piece)), *parser.finish(reason)]:
        if joined and not isinstance(event, ToolCall) and type(joined[-1]) is type(event):
            joined[-1] = type(event)(joined[-1].text + event.text)
        else:
            joined.append(event)
    return joined


@settings(max_examples=400, deadline=None)
@given(
    case=st.sampled_from(CASES),
    place=st.integers(0, 400),
    change=st.one_of(st.just(""), st.sampled_from(_FRAGMENTS), st.characters()),
    width=st.integers(0, 6),
)
def test_mutated_answers_neither_raise_nor_lose_text(case, place, change, width):
    dialect, text = case
    place = min(place, len(text))
    mutated = text[:place] + change + text[place + width :]
    whole = run(dialect, [mutated])
    assert run(dialect, list(mutated)) == whole
    assert is_complete(whole, mutated)


HARD = {
    "none": ["<think", "<", "a<think>\n", "\n"],
    "py-call": [
        *(
            "<|tool_call_start|",
            "<",
            "\n",
            "<|tool_call_start|>ping(",
            "<|tool_call_start|>'",
            "`",
            '"""',
            "((((",
            "\\",
        ),
        *("<|tool_call_start|>ping()<|tool_call_end|>", "<think>\n<|tool_call_start|>ping()", "x\n"),
    ],
    "xml-fn": [
        *(
            "<function",
            '<function name="ping">',
            '<function name="get_weather"><param name="city">',
            "]]",
            "<",
        ),
        *('<function name="ping"></function>', "<![CDATA[", "<think><function name=", "&"),
    ],
}


@pytest.mark.parametrize(("dialect", "unit"), [(d, unit) for d, units in HARD.items() for unit in units])
@pytest.mark.parametrize(
    "start", ["", "<think>", "<|tool_call_start|>ping(", '<function name="get_weather"><param name="city">']
)
def test_work_grows_with_the_length_only(dialect, unit, start):
    tools = check_tools(
        [{"name": "ping"}, {"name": "get_weather", "parameters": {"properties": {"city": {}}}}]
    )
    text = start + unit * (3_000 // len(unit))
    parser = StreamParser(dialect, tools)
    for character in text:
        parser.push(character)
        assert len(parser._held) <= 24
    parser.finish()
    assert parser.examined <= 24 * len(text)


@pytest.mark.parametrize(
    ("dialect", "opening", "filler"),
    [
        ("py-call", "<|tool_call_start|>get_weather(city='", "x"),
        ("py-call", "<|tool_call_start|>", "\n"),
        ("py-call", "<think><|tool_call_start|>", "y"),
        ("xml-fn", '<function name="get_weather"><param name="city">', "x"),
        ("xml-fn", '<function name="get_weather"><param name="city"><![CDATA[', "]"),
        ("xml-fn", '<think><function name="ping"></function>', " "),
    ],
)
def test_a_call_beyond_the_cap_becomes_text_at_one_place(dialect, opening, filler):
    text = opening + filler * (MAX_HELD + 50) + "')<think>\n</function><|tool_call_start|>ping()"
    whole = run(dialect, [text])
    assert run(dialect, [text[n : n + 1000] for n in range(0, len(text), 1000)]) == whole
    assert run(dialect, [text[:7], text[7 : MAX_HELD - 3], *text[MAX_HELD - 3 :]]) == whole
    assert "".join(event.text for event in whole if not isinstance(event, ToolCall)).count(filler) >= MAX_HELD


def test_text_is_shown_at_once_up_to_what_may_be_a_marker():
    parser = StreamParser("py-call", check_tools([{"name": "ping"}]))
    assert parser.push("Hello <") == [TextDelta("Hello ")]
    assert parser.push("b>") == [TextDelta("<b>")]
    parser = StreamParser("py-call", opened_by="<think>")
    assert parser.push("why\n") == [ReasoningDelta("why")]
    assert parser.push("not") == [ReasoningDelta("\nnot")]


def test_calls_come_one_by_one_while_the_block_is_open():
    parser = StreamParser("py-call", check_tools([{"name": "ping"}]))
    parser.push("<|tool_call_start|>\nping(")
    (first,) = parser.push(")\npi")
    (second,) = parser.push("ng()")
    assert [first.name, second.name] == ["ping", "ping"]
    assert first.id != second.id
    assert first.id.startswith("call_")
    assert len(first.id) == 29
    assert set(first.id[5:]) <= set("0123456789abcdef")
