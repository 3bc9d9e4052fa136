"""A conversation becomes a sample: what is written, and what is learned."""

import pytest

from minicpm.train.nano.sample import Sample, call_line, chat_sample, document, signature, system_text

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
                "days": {"type": "integer"},
                "exact": {"type": "boolean", "default": False},
            },
            "required": ["city"],
        },
    },
}
CALL = {
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "exact": True}},
}
CHAT = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL], "thought": "never shown"},
    {"role": "tool", "content": '{"t": 3}'},
    {"role": "assistant", "content": "3 degrees.", "thought": "I tell it."},
]


def learned(sample: Sample) -> str:
    return "".join(part.text for part in sample.parts if part.learn)


def test_a_signature_gives_types_enums_and_defaults() -> None:
    assert signature(WEATHER) == (
        'get_weather(city: str, unit: "c"|"f" = "c", days: int = None, exact: bool = false): Get the weather.'
    )


def test_a_call_writes_its_values_as_json() -> None:
    assert call_line(CALL) == 'get_weather(city="Zürich",days=2,exact=true)'


@pytest.mark.parametrize(
    ("system", "expected"), [("", "# Functions\n"), ("Be kind.", "Be kind.\n\n# Functions\n")]
)
def test_functions_follow_the_system_text(system: str, expected: str) -> None:
    assert system_text(system, [WEATHER]).startswith(expected)
    assert system_text(system, []) == system


def test_a_thinking_sample_is_written_as_the_prompt_format_says() -> None:
    assert chat_sample("x", CHAT, tools=[WEATHER], thinking="on").text == (
        f"<s><|im_start|>system\n# Functions\n{signature(WEATHER)}<|im_end|>\n"
        "<|im_start|>user\nWeather?<|im_end|>\n"
        "<|im_start|>assistant\n<|tool_call_start|>\n```python\n"
        'get_weather(city="Zürich",days=2,exact=true)\n```\n<|tool_call_end|><|im_end|>\n'
        '<|im_start|>tool\n{"t": 3}<|im_end|>\n'
        "<|im_start|>assistant\n<think>\nI tell it.\n</think>\n\n3 degrees.<|im_end|>"
    )


def test_every_answer_is_learned_and_the_prompt_is_not() -> None:
    call = f"<|tool_call_start|>\n```python\n{call_line(CALL)}\n```\n<|tool_call_end|><|im_end|>"
    assert (
        learned(chat_sample("x", CHAT, thinking="on"))
        == f"{call}I tell it.\n</think>\n\n3 degrees.<|im_end|>"
    )
    assert learned(chat_sample("x", CHAT, thinking="off")) == f"{call}3 degrees.<|im_end|>"


def test_thinking_off_leaves_an_empty_thought_in_the_prompt() -> None:
    end = "<|im_start|>assistant\n<think>\n\n</think>\n\n3 degrees.<|im_end|>"
    assert chat_sample("x", CHAT, thinking="off").text.endswith(end)


def test_a_document_learns_what_its_pieces_say() -> None:
    sample = document("drill", [("1 + 1 = ", False), ("2\n", True)])
    assert sample.text == "<s>1 + 1 = 2\n"
    assert learned(sample) == "2\n"
