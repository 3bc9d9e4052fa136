"""The engine writes what each request would get alone, whatever shares its batch or its cache."""

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from minicpm.engine.engine import Engine
from minicpm.engine.request import Request
from minicpm.engine.sampler import Draw
from minicpm.engine.sampling import SamplingParams
from minicpm.engine.stream import Stream
from minicpm.errors import BadParameter, CapacityError, PromptTooLong, QueueFull, StepFailed
from minicpm.models.decoder import Decoder

Engines = Callable[..., Engine]
Greedy = Callable[..., Request]
Alone = Callable[[Sequence[int], int], list[int]]


def prompt(number: int, length: int = 20) -> list[int]:
    return [random.Random(number).randrange(10, 280) for _ in range(length)]


def ids(stream: Stream) -> list[int]:
    return list(stream.result().samples[0].token_ids)


def test_greedy_alone_equals_full_recomputation(engine_of: Engines, greedy: Greedy, alone: Alone) -> None:
    assert ids(engine_of().submit(greedy(prompt(1), 30))) == alone(prompt(1), 30)


@pytest.mark.parametrize("size", [2, 5, 16])
def test_greedy_in_a_batch_equals_alone(engine_of: Engines, greedy: Greedy, alone: Alone, size: int) -> None:
    engine = engine_of()
    streams = [engine.submit(greedy(prompt(i, 5 + 7 * i), 20)) for i in range(size)]
    engine.run()
    assert [ids(s) for s in streams] == [alone(prompt(i, 5 + 7 * i), 20) for i in range(size)]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 63, 64, 65])
def test_greedy_does_not_depend_on_the_chunk_size(
    engine_of: Engines, greedy: Greedy, alone: Alone, chunk: int
) -> None:
    engine = engine_of(max_batch_tokens=chunk)
    streams = [engine.submit(greedy(prompt(i, 70), 5)) for i in (1, 2)]
    assert [ids(s) for s in streams] == [alone(prompt(i, 70), 5) for i in (1, 2)]


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("shared", [10, 63, 64, 65, 150])
def test_greedy_does_not_depend_on_the_prefix_cache(
    engine_of: Engines, greedy: Greedy, alone: Alone, enabled: bool, shared: int
) -> None:
    engine = engine_of(prefix_cache=enabled)
    start = prompt(3, shared)
    for end in ([], [11], [11, 12, 13], [200] * 70):
        stream = engine.submit(greedy([*start, *end], 6))
        assert ids(stream) == alone([*start, *end], 6)
        assert (stream.so_far().cached_tokens >= shared - 1) == (enabled and bool(end))


def test_a_conversation_reuses_what_was_written_before(
    engine_of: Engines, greedy: Greedy, alone: Alone
) -> None:
    engine = engine_of()
    first = ids(engine.submit(greedy(prompt(4, 50), 10)))
    turn = [*prompt(4, 50), *first, *prompt(5, 8)]
    stream = engine.submit(greedy(turn, 10))
    assert ids(stream) == alone(turn, 10)
    assert stream.so_far().cached_tokens == 59


def test_requests_of_three_times_the_pool_all_finish_with_the_same_text(
    engine_of: Engines, greedy: Greedy, alone: Alone
) -> None:
    engine = engine_of(pages=6)
    streams = [engine.submit(greedy(prompt(i, 40 + 10 * i), 40)) for i in range(10)]
    preempted = 0
    while not engine.idle:
        preempted += engine.step().preempted
    assert preempted > 0
    assert [ids(s) for s in streams] == [alone(prompt(i, 40 + 10 * i), 40) for i in range(10)]


@pytest.mark.parametrize("seed", range(6))
def test_random_traffic_gives_what_each_request_gets_alone(
    engine_of: Engines, greedy: Greedy, alone: Alone, seed: int
) -> None:
    chance = random.Random(seed)
    engine = engine_of(
        pages=chance.randrange(4, 12),
        max_batch_tokens=chance.choice([1, 3, 16, 100]),
        max_sequences=chance.randrange(1, 6),
        prefix_cache=chance.random() < 0.7,
    )
    live: list[tuple[Stream, list[int], int]] = []
    stopped = 0
    for _ in range(60):
        action = chance.random()
        if action < 0.3 and len(live) < 25:
            ask = prompt(chance.randrange(3), chance.randrange(1, 100)) + prompt(chance.randrange(99), 3)
            count = chance.randrange(1, 25)
            live.append((engine.submit(greedy(ask, count)), ask, count))
        elif action < 0.4 and live:
            stream, ask, count = live.pop(chance.randrange(len(live)))
            stream.abort()
            written = ids(stream)
            assert written == alone(ask, len(written))
            stopped += 1
        else:
            engine.step()
        used = engine.cache.total_pages - engine.cache.free_pages
        assert 0 <= used <= engine.cache.total_pages
    engine.run()
    assert stopped > 0
    for stream, ask, count in live:
        assert ids(stream) == alone(ask, count)


def test_seeded_draws_do_not_depend_on_the_batch(engine_of: Engines) -> None:
    def request(seed: int) -> Request:
        params = SamplingParams(temperature=1.3, top_p=0.9, seed=seed, max_tokens=15, frequency_penalty=0.3)
        return Request(prompt(seed), params)

    engine = engine_of(prefix_cache=False)
    apart = [ids(engine.submit(request(i))) for i in range(6)]
    streams = [engine.submit(request(i)) for i in reversed(range(6))]
    engine.run()
    assert [ids(s) for s in reversed(streams)] == apart
    tight = engine_of(pages=2, max_batch_tokens=4)
    streams = [tight.submit(request(i)) for i in range(6)]
    assert [ids(s) for s in streams] == apart


def test_without_a_seed_answers_differ(engine_of: Engines) -> None:
    engine = engine_of()
    request = Request(prompt(1), SamplingParams(temperature=5, max_tokens=20))
    assert ids(engine.submit(request)) != ids(engine.submit(request))


@pytest.mark.parametrize("enabled", [True, False])
def test_samples_share_the_prompt_and_differ_by_seed(engine_of: Engines, enabled: bool) -> None:
    engine = engine_of(prefix_cache=enabled)
    several = SamplingParams(temperature=1.5, seed=40, n=4, max_tokens=8)
    stream = engine.submit(Request(prompt(6, 130), several))
    computed = 0
    while not engine.idle:
        computed += engine.step().computed_tokens
    assert computed < 2 * 130
    for index, sample in enumerate(stream.result().samples):
        single = SamplingParams(temperature=1.5, seed=40 + index, max_tokens=8)
        assert list(sample.token_ids) == ids(engine.submit(Request(prompt(6, 130), single)))


def test_tokens_of_all_samples_arrive_in_order_with_their_index(engine_of: Engines) -> None:
    stream = engine_of().submit(Request(prompt(7), SamplingParams(n=3, max_tokens=5)))
    outputs = list(stream)
    for index, sample in enumerate(stream.so_far().samples):
        assert tuple(o.id for o in outputs if o.sample == index) == sample.token_ids
        assert [o.finish_reason for o in outputs if o.sample == index] == [None] * 4 + ["length"]


def test_end_tokens_and_stop_ids_end_the_text(engine_of: Engines, greedy: Greedy, alone: Alone) -> None:
    expected = alone(prompt(1), 12)
    end = expected[5]
    until = expected[: expected.index(end) + 1]
    assert ids(engine_of().submit(greedy(prompt(1), 12, stop_ids=[end]))) == until
    engine = engine_of(eos_ids=[end, 999])
    stream = engine.submit(greedy(prompt(1), 12))
    assert ids(stream) == until
    assert stream.result().samples[0].finish_reason == "stop"
    assert ids(engine.submit(greedy(prompt(1), 12, ignore_eos=True))) == expected


def test_min_tokens_holds_off_the_end(engine_of: Engines, greedy: Greedy, alone: Alone) -> None:
    end = alone(prompt(1), 1)[0]
    engine = engine_of(eos_ids=[end])
    written = ids(engine.submit(greedy(prompt(1), 12, min_tokens=4)))
    assert len(written) > 4 or end not in written
    assert end not in written[:4]


def test_log_probabilities_are_those_of_the_model(
    engine_of: Engines, greedy: Greedy, decoder: Decoder
) -> None:
    stream = engine_of().submit(greedy(prompt(8), 6, logprobs=3))
    sample = stream.result().samples[0]
    with torch.inference_mode():
        expected = decoder.logits_for([*prompt(8), *sample.token_ids]).log_softmax(-1)
    assert sample.scores is not None
    assert len(sample.scores) == 6
    for place, score in enumerate(sample.scores, start=19):
        assert score.logprob == pytest.approx(float(expected[place, score.id]), abs=1e-4)
        assert score.top[0] == (score.id, pytest.approx(score.logprob))
        assert len(score.top) == 3


@pytest.mark.parametrize("chunk", [7, 64, 512])
def test_prompt_log_probabilities_equal_those_of_one_forward(
    engine_of: Engines, greedy: Greedy, decoder: Decoder, chunk: int
) -> None:
    ask = prompt(9, 150)
    engine = engine_of(max_batch_tokens=chunk)
    ids(engine.submit(greedy(ask, 2)))
    result = engine.submit(greedy(ask, 1, prompt_logprobs=2)).result()
    with torch.inference_mode():
        expected = decoder.logits_for(ask).log_softmax(-1)
    assert result.prompt_scores is not None
    assert result.prompt_scores[0] is None
    assert len(result.prompt_scores) == 150
    for place, score in enumerate(result.prompt_scores[1:], start=1):
        assert score is not None
        assert score.id == ask[place]
        assert score.logprob == pytest.approx(float(expected[place - 1, ask[place]]), abs=1e-4)
        assert score.top[0][1] == pytest.approx(float(expected[place - 1].max()), abs=1e-4)


def test_prompt_log_probabilities_survive_preemption(engine_of: Engines, greedy: Greedy) -> None:
    def request() -> Request:
        return greedy(prompt(9, 60), 40, prompt_logprobs=0)

    calm = engine_of().submit(request()).result()
    tight = engine_of(pages=3, max_batch_tokens=50)
    older, newer = tight.submit(greedy(prompt(1, 60), 60)), tight.submit(request())
    preempted = 0
    while not tight.idle:
        preempted += tight.step().preempted
    assert preempted
    ids(older)
    assert calm.prompt_scores is not None
    scores = newer.result().prompt_scores
    assert scores is not None
    for a, b in zip(calm.prompt_scores[1:], scores[1:], strict=True):
        assert a is not None
        assert b is not None
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4)


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 100])
@pytest.mark.parametrize("samples", [1, 3])
def test_abort_in_any_state_frees_the_pages(engine_of: Engines, steps: int, samples: int) -> None:
    engine = engine_of(prefix_cache=False, max_batch_tokens=30, max_sequences=2)
    request = Request(prompt(10, 70), SamplingParams(n=samples, max_tokens=10))
    streams = [engine.submit(request) for _ in range(3)]
    for _ in range(steps):
        engine.step()
    for stream in streams:
        stream.abort()
        stream.abort()
    assert engine.idle
    assert engine.cache.free_pages == engine.cache.total_pages
    finished = steps == 100
    assert {s.finish_reason for s in streams[0].result().samples} == {"length" if finished else "abort"}


def test_leaving_a_with_block_stops_the_request(engine_of: Engines, greedy: Greedy) -> None:
    engine = engine_of()
    with engine.submit(greedy(prompt(1), 50)) as stream:
        first = next(stream)
    assert engine.idle
    assert [first.id] == ids(stream)


def test_a_failing_step_fails_its_requests_and_the_engine_goes_on(
    engine_of: Engines, greedy: Greedy, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(max_sequences=2)
    streams = [engine.submit(greedy(prompt(i), 10)) for i in range(3)]
    engine.step()

    def broken(*_: Any) -> None:
        raise RuntimeError("out of memory in a kernel")

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "forward", broken)
        report = engine.step()
    assert set(report.finished) == set(streams[:2])
    for stream in streams[:2]:
        with pytest.raises(StepFailed, match="out of memory in a kernel") as caught:
            stream.result()
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert stream.so_far().samples[0].finish_reason == "error"
    assert ids(streams[2]) == alone(prompt(2), 10)


def test_a_failing_detokenizer_fails_its_request_and_the_engine_goes_on(
    engine_of: Engines, greedy: Greedy, alone: Alone
) -> None:
    class Broken:
        def push(self, token: int) -> str:
            raise KeyError(token)

    engine = engine_of()
    done = engine.submit(greedy(prompt(2), 1))
    stream = engine.submit(Request(prompt(1), SamplingParams(), Broken))  # type: ignore[arg-type]
    with pytest.raises(StepFailed, match="KeyError"):
        stream.result()
    assert ids(done) == alone(prompt(2), 1)


def test_an_interrupt_stops_its_requests_and_the_engine_goes_on(
    engine_of: Engines, greedy: Greedy, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of()
    stream = engine.submit(greedy(prompt(1), 10))
    next(stream)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    assert stream.so_far().samples[0].finish_reason == "abort"
    assert ids(engine.submit(greedy(prompt(1), 10))) == alone(prompt(1), 10)


def test_broken_logits_fail_only_their_own_request(engine_of: Engines, greedy: Greedy, alone: Alone) -> None:
    engine = engine_of()
    everything = {token: float("-inf") for token in range(engine.decoder.config.vocab)}
    bad = engine.submit(greedy(prompt(1), 5, logit_bias=everything, n=2))
    good = engine.submit(greedy(prompt(2), 5))
    engine.run()
    with pytest.raises(StepFailed, match="No token can be chosen"):
        bad.result()
    assert ids(good) == alone(prompt(2), 5)


def test_samples_that_break_in_one_step_fail_their_request_once(
    engine_of: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of()
    stream = engine.submit(Request(prompt(1), SamplingParams(n=3, max_tokens=10)))
    while len(stream.so_far().samples[2].token_ids) < 2:
        engine.step()
    with monkeypatch.context() as patch:
        patch.setattr("minicpm.engine.runner.choose", lambda _, sequences: [Draw(None)] * len(sequences))
        assert engine.step().finished == (stream,)
    assert engine.idle
    with pytest.raises(StepFailed):
        stream.result()


def test_many_threads_get_what_each_would_get_alone(engine_of: Engines, greedy: Greedy, alone: Alone) -> None:
    engine = engine_of(pages=20, max_sequences=8)
    got: dict[int, list[int]] = {}

    def client(number: int) -> None:
        stream = engine.submit(greedy(prompt(number), 12))
        if number % 5 == 4:
            next(stream)
            stream.abort()
        got[number] = ids(stream)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, written in got.items():
        assert written == alone(prompt(number), len(written))
        assert number % 5 == 4 or len(written) == 12
    assert len(got) == 30


def test_what_can_never_fit_is_refused_with_numbers(engine_of: Engines, greedy: Greedy) -> None:
    engine = engine_of(pages=2)
    with pytest.raises(CapacityError, match=r"129 tokens and the cache holds 128"):
        engine.submit(greedy(prompt(1, 129), 1))
    with pytest.raises(CapacityError, match=r"100 tokens and max_tokens 40 need 139 cached tokens"):
        engine.submit(greedy(prompt(1, 100), 40))
    context = engine.decoder.config.context
    with pytest.raises(PromptTooLong, match=f"{context + 5:,} tokens and the context holds {context:,}"):
        engine.submit(greedy([5] * (context + 5), 1))


def test_what_just_fits_is_served(engine_of: Engines, greedy: Greedy) -> None:
    engine = engine_of(pages=2)
    assert len(ids(engine.submit(greedy(prompt(1, 128), 1)))) == 1
    assert len(ids(engine.submit(greedy(prompt(1, 100), 29)))) == 29
    unbounded = Request(prompt(1, 100), SamplingParams(temperature=0))
    assert len(ids(engine.submit(unbounded))) == 29


def test_ids_outside_the_vocabulary_and_empty_prompts_are_refused_together(engine_of: Engines) -> None:
    engine = engine_of()
    with pytest.raises(BadParameter) as caught:
        engine.submit(Request([3, 9999], SamplingParams(logit_bias={8888: 1}, stop_ids=[7777], stop="x")))
    for part in ("prompt holds 9999", "logit_bias holds 8888", "stop_ids holds 7777", "no detokenizer"):
        assert part in str(caught.value)
    with pytest.raises(BadParameter, match="no tokens"):
        engine.submit(Request([]))


def test_the_queue_limit_is_exactly_honoured(engine_of: Engines, greedy: Greedy) -> None:
    engine = engine_of(max_requests=3)
    streams = [engine.submit(greedy(prompt(i), 2)) for i in range(3)]
    with pytest.raises(QueueFull, match="3 requests are unfinished"):
        engine.submit(greedy(prompt(3), 2))
    streams[0].abort()
    engine.submit(greedy(prompt(3), 2))
    engine.run()


def test_an_idle_step_does_nothing(engine_of: Engines) -> None:
    report = engine_of().step()
    assert (report.computed_tokens, report.outputs) == (0, ())


def test_times_and_counts_are_reported(engine_of: Engines, greedy: Greedy) -> None:
    result = engine_of().submit(greedy(prompt(1), 5)).result()
    assert result.prompt_tokens == 20
    assert result.prefill_s > 0
    assert result.decode_s > 0


@pytest.mark.parametrize("name", ["pages", "max_batch_tokens", "max_sequences", "max_requests"])
def test_sizes_below_one_are_refused(decoder: Decoder, name: str) -> None:
    with pytest.raises(BadParameter, match=f"{name} must be at least 1, not 0"):
        Engine(decoder, **{"pages": 4, name: 0})
