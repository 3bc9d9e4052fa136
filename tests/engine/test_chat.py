"""Chat answers come as events that add up to the reply, stop when closed, and are cut only when asked."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minicpm
from minicpm.engine.answer import Answer, Reply
from minicpm.engine.api import Model
from minicpm.engine.request import Request
from minicpm.engine.sampling import SamplingParams
from minicpm.errors import BadParameter, MessageError, PromptTooLong
from minicpm.models.decoder import Decoder
from minicpm.testing import families, tiny_checkpoint
from minicpm.text.chat import ChatModel, Message
from minicpm.text.events import End, Event, ReasoningDelta, TextDelta, ToolCall

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds.",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        },
    }
]


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return minicpm.load(folder, dtype="float32", pages=40)


@pytest.fixture(autouse=True)
def _nothing_leaks(model: Model) -> Iterator[None]:
    yield
    assert model.engine.idle, "an answer was left running"
    model.engine.drop_prefixes()
    assert model.engine.cache.free_pages == model.engine.cache.total_pages


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch, model: Model) -> Callable[[str], None]:
    """Makes the model write a given text, then its end token, whatever it computes."""

    def script(text: str) -> None:
        ids = [*_ids(model, text), model.config.eos[-1]]

        def choose(_: object, sequences: list[Any]) -> list[Any]:
            from minicpm.engine.sampler import Draw

            return [Draw(ids[s.generated]) for s in sequences]

        monkeypatch.setattr("minicpm.engine.runner.choose", choose)

    return script


def _ids(model: Model, text: str) -> list[int]:
    """Ids of a text whose control spellings are control tokens, as a model writes them."""
    spellings = model.tokenizer.spellings
    pieces = spellings.split(text)
    return [
        i
        for p in pieces
        for i in ([model.tokenizer.special_ids[p.text]] if p.control else model.tokenizer.encode(p.text))
    ]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def joined(events: list[Event], kind: type[TextDelta] | type[ReasoningDelta]) -> str:
    return "".join(e.text for e in events if isinstance(e, kind))


def test_events_of_a_stream_add_up_to_the_reply(model: Model) -> None:
    options: dict[str, Any] = {"max_tokens": 25, "seed": 1}
    reply = model.chat([user("hello")], **options)
    events = list(model.chat([user("hello")], stream=True, **options))
    assert isinstance(reply, Reply)
    assert joined(events, TextDelta) == reply.text
    assert joined(events, ReasoningDelta) == reply.reasoning
    end = events[-1]
    assert isinstance(end, End)
    assert sum(isinstance(e, End) for e in events) == 1
    assert (end.reason, end.usage.completion_tokens) == ("length", 25)
    assert end.usage.prompt_tokens == len(model.format.prompt_ids([user("hello")]))
    assert end.timings is not None
    assert end.timings.decode_s > 0


def test_a_string_is_one_user_message(model: Model) -> None:
    options: dict[str, Any] = {"max_tokens": 10, "temperature": 0}
    assert model.chat("hello", **options).text == model.chat([user("hello")], **options).text


def test_thinking_calls_and_text_are_told_apart(model: Model, says: Callable[[str], None]) -> None:
    says('<think>\nwell\n</think>\n\nthe sum<function name="add"><param name="a">1</param></function>')
    reply = model.chat("add", tools=TOOLS)
    assert reply.reasoning.strip() == "well"
    assert reply.text.strip() == "the sum"
    (call,) = reply.tool_calls
    assert isinstance(call, ToolCall)
    assert (call.name, json.loads(call.arguments)) == ("add", {"a": 1})
    assert reply.finish_reason == "tool_calls"


def test_the_end_token_stops_the_answer_and_shows_no_text(model: Model, says: Callable[[str], None]) -> None:
    says("hello 你好")
    reply = model.chat("hi", thinking="off")
    assert (reply.text, reply.finish_reason) == ("hello 你好", "stop")


@pytest.mark.parametrize("thinking", ["on", "off", "auto"])
def test_thinking_reaches_template_and_parser(
    model: Model, says: Callable[[str], None], thinking: Any
) -> None:
    says("the hello" if thinking != "on" else "the</think>hello")
    reply = model.chat("hi", thinking=thinking)
    assert reply.reasoning == ("the" if thinking == "on" else "")
    assert reply.usage.prompt_tokens == len(model.format.prompt_ids([user("hi")], thinking=thinking))


def test_the_second_turn_reuses_the_first(model: Model) -> None:
    talk = [user("hello " * 30)]
    first = model.chat(talk, max_tokens=5, thinking="off")
    assert first.usage.cached_tokens == 0
    second = model.chat([*talk, {"role": "assistant", "content": "the"}, user("more")], max_tokens=5)
    assert second.usage.cached_tokens > 25


def test_closing_the_iterator_stops_the_model(model: Model) -> None:
    answer = model.chat("hello", stream=True, max_tokens=500)
    next(answer)
    answer.close()
    assert model.engine.idle
    end = list(answer)[-1]
    assert isinstance(end, End)
    assert end.reason == "abort"


def test_a_forgotten_answer_stops_by_itself(model: Model) -> None:
    for _ in model.chat("hello", stream=True, max_tokens=500):
        break
    model.chat("hello", stream=True)
    assert model.engine.idle


def test_leaving_a_with_block_stops_the_model(model: Model) -> None:
    with model.chat("hello", stream=True, max_tokens=500) as answer:
        assert isinstance(answer, Answer)
        next(answer)
    assert model.engine.idle


def test_too_long_a_conversation_is_refused_with_numbers(model: Model) -> None:
    model_context = model.engine.limits.prompt_tokens
    talk = [user("1" * model_context)]
    with pytest.raises(minicpm.MiniCPMError, match=f"{model_context:,}"):
        model.chat(talk)


def test_truncation_drops_whole_oldest_turns_and_says_so(model: Model) -> None:
    old: list[Message] = [user("1" * 1500), {"role": "assistant", "content": "2" * 500}]
    last: list[Message] = [user("3" * 600)]
    system: list[Message] = [{"role": "system", "content": "the"}]
    with pytest.raises(minicpm.MiniCPMError):
        model.chat([*system, *old, *last], max_tokens=10)
    reply = model.chat([*system, *old, *last], max_tokens=10, truncate=True)
    assert reply.usage.prompt_tokens == len(model.format.prompt_ids([*system, *last]))
    assert len(reply.notes) == 1
    assert reply.notes[0].startswith("1 oldest turns were left out")
    assert model.chat(last, max_tokens=10, truncate=True).notes == ()


def test_a_last_turn_that_is_too_long_is_refused_even_with_truncation(model: Model) -> None:
    with pytest.raises(minicpm.MiniCPMError):
        model.chat([user("1" * 5000)], truncate=True)


def test_more_than_one_answer_is_refused(model: Model) -> None:
    with pytest.raises(BadParameter, match="n = 2"):
        model.chat("hello", n=2)


def test_bad_input_is_refused_before_anything_runs(model: Model) -> None:
    for options in ({"temperature": -1}, {"thinking": "maybe"}, {"unknown": 1}, {"max_tokens": 0}):
        with pytest.raises(BadParameter):
            model.chat("hello", stream=True, **options)  # type: ignore[arg-type]
    for messages in ([{"role": "nobody", "content": "x"}], ["x"], [{"content": "x"}]):
        for truncate in (True, False):
            with pytest.raises(MessageError):
                model.chat(messages, stream=True, truncate=truncate)  # type: ignore[arg-type]


def test_the_local_chat_is_a_chat_model(model: Model) -> None:
    assert isinstance(model.chat_model, ChatModel)
    events = list(model.chat_model.chat([user("hello")], max_tokens=3))
    assert isinstance(events[-1], End)


@settings(deadline=None, max_examples=20)
@given(st.text(max_size=40))
def test_any_text_can_be_said_to_the_model(model: Model, text: str) -> None:
    assert model.chat(text or "a", max_tokens=2).usage.completion_tokens <= 2


def test_sampling_defaults_come_from_the_checkpoint(tmp_path: Path) -> None:
    folder = tiny_checkpoint("minicpm5-1b", tmp_path / "greedy")
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False, "eos_token_id": [7, 8]}))
    model = minicpm.load(folder, pages=8)
    assert model.chat("hello", max_tokens=20).text == model.chat("hello", max_tokens=20, temperature=0).text
    stream = model.engine.submit(Request([3], SamplingParams(max_tokens=1)))
    assert {7, 8} <= stream.sequences[0].stop_ids
    stream.result()


def test_a_model_says_what_bounds_it(folder: Path, model: Model) -> None:
    assert any("2,560 tokens" in note for note in model.notes)
    assert not minicpm.load(folder, context=512).notes


@pytest.mark.parametrize("family", families())
def test_every_family_chats(family: str, tmp_path: Path) -> None:
    model = minicpm.load(tiny_checkpoint(family, tmp_path / family), pages=8)
    events = list(model.chat("hello 你好", stream=True, max_tokens=4, seed=0))
    assert isinstance(events[-1], End)
    assert model.chat("hello", max_tokens=4, temperature=0).usage.completion_tokens <= 4


def test_generate_and_score_work_on_a_loaded_model(model: Model, decoder: Decoder) -> None:
    several = model.generate(["the", "hello"], max_tokens=4, n=2, seed=3, logprobs=1)
    assert [(c.prompt, c.sample) for c in several] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(c.logprobs is not None and len(c.logprobs) == 4 for c in several)
    assert model.score("hello the").perplexity > 1
    assert model.decoder.config == decoder.config


def test_a_streamed_completion_is_the_whole_one(model: Model) -> None:
    (whole,) = model.generate("the", max_tokens=12, seed=5)
    with model.stream("the", max_tokens=12, seed=5) as stream:
        assert "".join(output.text for output in stream) == whole.text


def test_a_prompt_beyond_the_context_is_refused(folder: Path) -> None:
    short = minicpm.load(folder, context=100)
    with pytest.raises(PromptTooLong, match="the context holds 100"):
        short.generate("1" * 200)
    assert len(short.generate("1", temperature=0, ignore_eos=True)[0].token_ids) == 98
