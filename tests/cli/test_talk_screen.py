"""What a chat draws: dimmed thinking, Markdown without loss, and nothing that steers the terminal."""

import io
import time

import pytest
from rich.console import Console

from minicpm.cli.talk.printable import printable
from minicpm.cli.talk.screen import Screen
from minicpm.cli.talk.speed import speed_line
from minicpm.text.events import End, Timings, Usage


def drawn(*pieces, terminal=True, plain=False, height=24, reasoning=()):
    output = io.StringIO()
    console = Console(
        file=output,
        force_terminal=terminal,
        width=60,
        height=height,
        color_system="standard",
        legacy_windows=False,
    )
    with Screen(console, plain=plain).answer() as view:
        for piece in reasoning:
            view.reasoning(piece)
        for piece in pieces:
            view.text(piece)
    return output.getvalue()


def final(output, width=60):
    """What a terminal shows in the end, of the few codes that are used here."""
    lines, row, column, i = [""], 0, 0, 0
    while i < len(output):
        if output[i] == "\x1b" and output[i + 1] == "[":
            end = i + 2
            while not output[end].isalpha():
                end += 1
            number = output[i + 2 : end]
            if output[end] == "A":
                row -= int(number or 1)
            elif output[end] == "K":
                lines[row] = ""
            elif output[end] not in "mhl":
                raise AssertionError(output[i : end + 1])
            i = end + 1
            continue
        if output[i] == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif output[i] == "\r":
            column = 0
        else:
            lines[row] = lines[row][:column].ljust(column) + output[i] + lines[row][column + 1 :]
            column += 1
        i += 1
    return [line.rstrip() for line in lines]


TEXT = """# Head

Hello **you**
and <b>you</b>.

1. one
2. two

```python
x = 1

y = 2
```

> quote

你好 🌍"""


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_growing_markdown_ends_as_the_whole_would(size):
    pieces = [TEXT[i : i + size] for i in range(0, len(TEXT), size)]
    shown = "\n".join(final(drawn(*pieces))).strip("\n")
    assert shown.split("\n") == [
        "Head",
        "",
        "Hello you",
        "and <b>you</b>.",
        "",
        " 1 one",
        " 2 two",
        "",
        "  x = 1",
        "",
        "  y = 2",
        "",
        "▌ quote",
        "",
        "你好 🌍",
    ]


def test_a_table_is_drawn_as_one():
    lines = final(drawn("| a | b |\n|---|---|\n", "| 1 | 2 |\n\n", "end"))
    assert not any("|" in line for line in lines)
    assert [line.split() for line in lines if line.split()][::2] == [["a", "b"], ["1", "2"]]


def test_a_block_taller_than_the_screen_is_shown_whole_in_the_end():
    lines = [f"line {i}" for i in range(50)]
    output = drawn(*(f"{line}\n" for line in lines), height=10)
    assert [line for line in final(output) if line] == lines


def test_thinking_is_dimmed_and_set_apart_from_the_answer():
    output = drawn("answer", reasoning=["\n\nI ", "think\n\n"])
    assert "\x1b[2;3mI\x1b[0m" in output
    assert final(output) == ["I think", "", "answer", ""]


def test_thinking_without_an_answer_ends_its_line():
    assert final(drawn(reasoning=["hm"])) == ["hm", ""]


def test_elsewhere_than_on_a_terminal_text_comes_as_it_is():
    assert drawn("**a**\n\n", "b\n", terminal=False) == "**a**\n\nb\n"
    assert "\x1b" not in drawn("**a**", plain=True)


def test_answers_and_notes_can_go_different_ways():
    answers, notes = io.StringIO(), io.StringIO()
    screen = Screen(Console(file=answers, width=60), aside=Console(file=notes, width=60))
    screen.note("a note")
    screen.refuse("a refusal")
    screen.table([("a", "table")])
    with screen.answer() as view:
        view.reasoning("a thought")
        view.text("the answer")
    assert answers.getvalue() == "the answer\n"
    assert notes.getvalue().split() == "a note a refusal a table a thought".split()


@pytest.mark.parametrize("plain", [True, False])
def test_a_model_cannot_steer_the_terminal(plain):
    output = drawn("a\x1b]0;title\x07b\x9bc\r\nd\x08", plain=plain, reasoning=["\x1b[2J"])
    assert "\x1b]" not in output
    assert "\x1b[2J" not in output
    assert not set("\x07\x08\x9b") & set(output)
    assert "␛" in output


def test_printable_text_stays_as_it_is():
    text = "tab\tline\n你好 é 🌍 ‍"
    assert printable(text) == text
    assert printable("a\r\nb") == "a\nb"
    assert printable("\u202eabc") == "\ufffdabc"


def test_drawing_a_long_answer_takes_bounded_time():
    text = "".join(f"word{i} " for i in range(10_000))
    began = time.process_time()
    drawn(*(text[i : i + 8] for i in range(0, len(text), 8)))
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("end", "line"),
    [
        (End("stop", Usage(10, 1, 0), None), "prompt 10 tokens · answer 1 tokens"),
        (
            End("length", Usage(10, 5, 10), Timings(0.1, 2.0)),
            "prompt 10 tokens (10 cached) · answer 5 tokens at 2/s · cut at the limit of tokens",
        ),
        (End("abort", Usage(10, 0, 0), Timings(0.0, 0.0)), "prompt 10 tokens · answer 0 tokens · stopped"),
    ],
)
def test_the_speed_line_says_what_was_computed(end, line):
    assert speed_line(end) == line
