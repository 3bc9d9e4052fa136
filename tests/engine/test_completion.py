"""Completions continue text, stop where they are told, and scores equal one plain forward."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from minicpm.engine.completion import Completer
from minicpm.engine.engine import Engine
from minicpm.engine.sampling import SamplingParams
from minicpm.errors import BadParameter, PromptTooLong
from minicpm.models.decoder import Decoder
from minicpm.text.tokenizer import Tokenizer


@pytest.fixture
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


@pytest.fixture
def completer(engine_of: Callable[..., Engine], tokenizer: Tokenizer) -> Completer:
    return Completer(engine_of(max_requests=3), tokenizer)


def params(tokens: int = 20, **options: object) -> SamplingParams:
    return SamplingParams.of({"temperature": 0, "max_tokens": tokens, **options})


def test_a_prompt_gets_exactly_one_bos(completer: Completer, tokenizer: Tokenizer) -> None:
    assert completer.ids("hello") == [tokenizer.bos_id, *tokenizer.encode("hello")]
    assert completer.ids([5, 6]) == [5, 6]


def test_text_and_ids_give_the_same_completion(completer: Completer) -> None:
    (by_text,) = completer.generate("hello 你好", params())
    (by_ids,) = completer.generate([completer.ids("hello 你好")], params())
    assert by_text.token_ids == by_ids.token_ids
    assert by_text.text == by_ids.text
    assert by_text.finish_reason == "length"


def test_more_prompts_than_the_engine_accepts_are_served_in_order(completer: Completer) -> None:
    prompts = [f"the {i}" for i in range(8)]
    together = completer.generate(prompts, params(n=2))
    assert [(c.prompt, c.sample) for c in together] == [(i, s) for i in range(8) for s in range(2)]
    alone = [completer.generate(p, params())[0].text for p in prompts]
    assert [c.text for c in together[::2]] == alone


def test_the_text_is_the_decoded_ids(completer: Completer, tokenizer: Tokenizer) -> None:
    (completion,) = completer.generate("the hello", params(40))
    detokenizer = tokenizer.detokenizer(continues=True)
    pieces = [detokenizer.push(token) for token in completion.token_ids]
    assert completion.text == "".join(pieces) + detokenizer.finish()


def test_stop_strings_cut_the_text_wherever_tokens_end(completer: Completer) -> None:
    whole = completer.generate("1 2 3 hello", params(40))[0].text
    for start in range(0, len(whole) - 4, 3):
        for size in (1, 2, 4):
            stop = whole[start : start + size]
            (cut,) = completer.generate("1 2 3 hello", params(40, stop=[stop, "no such text"]))
            assert cut.text == whole[: whole.index(stop)]
            assert cut.finish_reason == "stop"


def test_a_stop_string_that_never_comes_changes_nothing(completer: Completer) -> None:
    whole = completer.generate("the", params(30))[0]
    held = completer.generate("the", params(30, stop=whole.text[-3:] + "x"))[0]
    assert (held.text, held.finish_reason) == (whole.text, "length")


def test_stop_strings_wait_for_min_tokens(completer: Completer) -> None:
    whole = completer.generate("the hello", params(30))[0]
    early = whole.text[0]
    late = completer.generate("the hello", params(30, stop=early, min_tokens=10))[0]
    assert len(late.token_ids) > 10
    assert late.text.startswith(early)


def test_a_score_equals_one_plain_forward(completer: Completer, decoder: Decoder) -> None:
    score = completer.score("hello the 你好 123")
    with torch.inference_mode():
        logprobs = decoder.logits_for(list(score.token_ids)).log_softmax(-1)
    expected = [float(logprobs[i, token]) for i, token in enumerate(score.token_ids[1:])]
    assert score.logprobs[0] is None
    assert score.logprobs[1:] == pytest.approx(expected, abs=1e-4)
    assert score.perplexity == pytest.approx(float(torch.tensor(expected).mean().neg().exp()), rel=1e-4)


def test_a_score_needs_two_tokens(completer: Completer) -> None:
    with pytest.raises(BadParameter, match="at least two tokens, and the text has 1"):
        completer.score("")


def test_one_refused_prompt_stops_the_others(engine_of: Callable[..., Engine], tokenizer: Tokenizer) -> None:
    engine = engine_of()
    too_long = [5] * (engine.limits.context + 1)
    with pytest.raises(PromptTooLong):
        Completer(engine, tokenizer).generate([[5, 6, 7], too_long], params())
    assert engine.idle


def test_ids_without_their_own_list_are_refused_in_words(completer: Completer) -> None:
    with pytest.raises(BadParameter, match="not 5"):
        completer.generate([5, 6, 7], params())  # type: ignore[list-item]
    with pytest.raises(BadParameter, match="prompt holds 'a'"):
        completer.generate([["a"]], params())  # type: ignore[list-item]
