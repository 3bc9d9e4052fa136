"""Growing Markdown is cut into blocks that later text cannot change."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minicpm.cli.talk.blocks import Blocks

LINES = st.sampled_from(
    ["", "", "text", "more text", "- item", "2. item", "    indented", "```", "```python", "~~~~", "````",
     "# head", "> quote", "| a | b |", "|---|---|", "`code`", "  ", "\u3000", "你好"]
)  # fmt: skip


def cut(pieces):
    blocks = Blocks()
    done = []
    for piece in pieces:
        blocks.push(piece)
        done += blocks.finished()
    return done + blocks.finish()


@given(st.lists(LINES, max_size=25), st.lists(st.integers(0, 400), max_size=12))
def test_where_the_text_is_split_makes_no_difference(lines, places):
    text = "\n".join(lines)
    cuts = sorted({0, len(text), *(place for place in places if place < len(text))})
    assert cut([text[a:b] for a, b in pairwise(cuts)]) == cut([text])
    assert cut(list(text)) == cut([text])


@given(st.lists(LINES, max_size=25))
def test_no_line_is_lost_or_moved(lines):
    kept = [line for block in cut(["\n".join(lines)]) for line in block.split("\n") if line.strip()]
    assert kept == [line for line in lines if line.strip()]


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("a\nb\n\nc", ["a\nb", "c"]),
        ("```\na\n\nb\n```\n\nc", ["```\na\n\nb\n```", "c"]),
        ("````\n```\n\nx\n````\n\nc", ["````\n```\n\nx\n````", "c"]),
        ("1. a\n\n2. b\n\nend", ["1. a\n\n2. b", "end"]),
        ("- a\n\n  more of a\n\nend", ["- a\n\n  more of a", "end"]),
        ("`a` b\n\nc", ["`a` b", "c"]),
    ],
)
def test_blocks_end_at_blank_lines_outside_of_code_and_lists(text, blocks):
    assert [block.rstrip("\n") for block in cut([text])] == blocks


def test_a_block_is_final_before_the_text_ends():
    blocks = Blocks()
    blocks.push("first\n\n")
    assert blocks.finished() == []
    blocks.push("s")
    assert blocks.finished() == ["first\n"]
    assert blocks.preview(100) == "s"


def test_a_preview_is_the_end_of_the_block_and_stays_code():
    blocks = Blocks()
    blocks.push("```python\n" + "".join(f"x{i} = {i}\n" for i in range(1000)))
    assert blocks.preview(1 << 20).startswith("```python\nx0 = 0\n")
    short = blocks.preview(50)
    assert short.startswith("```\nx99")
    assert short.endswith("x999 = 999\n")
    assert len(short) < 80


def test_a_long_list_takes_linear_time():
    import time

    def seconds(items):
        blocks = Blocks()
        began = time.process_time()
        for i in range(items):
            blocks.push(f"- item {i}\n\n")
            blocks.finished()
        return time.process_time() - began

    seconds(100)
    assert seconds(20_000) < 2.0
