"""A checkpoint's own template says how it is spoken to."""

import pytest

from minicpm.text.recognition import recognise
from minicpm.text.templates import built_in


@pytest.mark.parametrize(
    ("source", "given", "dialect", "expected"),
    [
        ("<|im_start|> <|tool_call_start|> enable_thinking", "minicpm-v1", "none", ("nano", "py-call")),
        ("<|im_start|> <|tool_call_start|>", "minicpm-v1", "none", ("chatml", "py-call")),
        (
            "<|im_start|> <|tool_call_start|> enable_thinking",
            "minicpm4.1",
            "py-call",
            ("minicpm4.1", "py-call"),
        ),
        ('<function name="f"><param name="p">', "minicpm-v1", "none", ("minicpm5", "xml-fn")),
        ("<|im_start|>{{ role }}", "minicpm-v1", "none", ("chatml", "none")),
        ("<|im_start|>{{ role }}", "minicpm4.1", "py-call", ("minicpm4.1", "py-call")),
        ("<用户>{{ content }}<AI>", "chatml", "py-call", ("minicpm-v1", "none")),
        ("", "chatml", "py-call", ("chatml", "py-call")),
    ],
)
def test_markers_in_a_template_decide_format_and_dialect(source, given, dialect, expected):
    chosen, found = recognise(source, built_in(given), dialect)
    assert (chosen.name, found) == expected
