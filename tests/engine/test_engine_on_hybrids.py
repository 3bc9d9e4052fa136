"""A model whose layers go back to marks alone writes the same, whatever the engine reuses of a prefix."""

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from minicpm import load_decoder
from minicpm.config.memory import state_bytes
from minicpm.engine import memory
from minicpm.engine.engine import Engine
from minicpm.engine.memory import PREFIX_STATE_BYTES, prefix_holders
from minicpm.engine.prefix import MAX_HOLDERS
from minicpm.engine.request import Request
from minicpm.engine.stream import Stream
from minicpm.models.decoder import Decoder
from minicpm.models.published import by_name
from minicpm.models.registry import parse
from minicpm.testing import tiny_checkpoint, tiny_config

Engines = Callable[..., Engine]
Greedy = Callable[..., Request]


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return load_decoder(tiny_checkpoint("minicpm-sala", tmp_path_factory.mktemp("hybrid")), dtype="float32")


@pytest.fixture
def engines(hybrid: Decoder) -> Iterator[Engines]:
    """Makes engines that must end without a page or a state."""
    made: list[Engine] = []

    def make(**options: Any) -> Engine:
        made.append(Engine(hybrid, **{"pages": 32, **options}))
        return made[-1]

    yield make
    for engine in made:
        engine.drop_prefixes()
        assert engine.cache.free_pages == engine.cache.total_pages
        assert engine.cache.nbytes == hybrid.new_cache(engine.cache.total_pages).nbytes, "states leaked"


@pytest.fixture(scope="module")
def fresh(hybrid: Decoder) -> Callable[[Sequence[int], int], list[int]]:
    """Greedy continuation by full recomputation."""

    known: dict[tuple[int, ...], int] = {}

    def following(ids: tuple[int, ...]) -> int:
        if ids not in known:
            with torch.inference_mode():
                known[ids] = int(hybrid.logits_for(list(ids))[-1].argmax())
        return known[ids]

    def continuation(prompt: Sequence[int], count: int) -> list[int]:
        ids = tuple(prompt)
        for _ in range(count):
            ids += (following(ids),)
        return list(ids[len(prompt) :])

    return continuation


def prompt(number: int, length: int) -> list[int]:
    return [random.Random(number).randrange(10, 280) for _ in range(length)]


def ids(stream: Stream) -> list[int]:
    return list(stream.result().samples[0].token_ids)


@pytest.mark.parametrize("chunk", [7, 64, 512])
@pytest.mark.parametrize("shared", [10, 63, 64, 65, 150])
def test_prefix_reuse_goes_back_to_a_mark_and_writes_the_same(
    engines: Engines, greedy: Greedy, fresh: Any, shared: int, chunk: int
) -> None:
    reusing, plain = engines(max_batch_tokens=chunk), engines(prefix_cache=False)
    start = prompt(3, shared)
    for end in ([], [11], [11, 12, 13], [200] * 70):
        request = greedy([*start, *end], 5)
        stream = reusing.submit(request)
        assert ids(stream) == ids(plain.submit(request)) == fresh([*start, *end], 5)
        cached = stream.so_far().cached_tokens
        assert cached == 0 if not end else cached >= (shared - 1) // 64 * 64


def test_a_conversation_continues_from_where_the_last_answer_ended(
    engines: Engines, greedy: Greedy, fresh: Any
) -> None:
    engine = engines()
    first = ids(engine.submit(greedy(prompt(4, 90), 10)))
    turn = [*prompt(4, 90), *first, *prompt(5, 8)]
    stream = engine.submit(greedy(turn, 10))
    assert ids(stream) == fresh(turn, 10)
    assert stream.so_far().cached_tokens == 99, "a state where the sequence stands needs no mark"


def test_another_end_of_a_conversation_continues_from_the_answer_before_it(
    engines: Engines, greedy: Greedy, fresh: Any
) -> None:
    """The longer sequence contains the shorter one, but has no state where that one ended."""
    engine = engines()
    first = ids(engine.submit(greedy(prompt(4, 90), 10)))
    ids(engine.submit(greedy([*prompt(4, 90), *first, *prompt(5, 8)], 10)))
    again = [*prompt(4, 90), *first, *prompt(7, 8)]
    stream = engine.submit(greedy(again, 10))
    assert ids(stream) == fresh(again, 10)
    assert stream.so_far().cached_tokens == 99


def test_samples_of_one_request_share_their_prompt_up_to_a_mark(
    engines: Engines, greedy: Greedy, fresh: Any
) -> None:
    stream = engines().submit(greedy(prompt(6, 100), 6, n=3))
    wanted = fresh(prompt(6, 100), 6)
    assert [list(sample.token_ids) for sample in stream.result().samples] == [wanted] * 3


def test_sequences_that_lost_their_pages_are_computed_again(
    engines: Engines, greedy: Greedy, fresh: Any
) -> None:
    engine = engines(pages=5)
    streams = [engine.submit(greedy(prompt(i, 60 + i), 12)) for i in range(6)]
    engine.run()
    assert [ids(stream) for stream in streams] == [fresh(prompt(i, 60 + i), 12) for i in range(6)]


def test_states_of_finished_sequences_are_bounded_where_a_model_has_them(hybrid: Decoder) -> None:
    config = {name: parse(by_name(name).raw) for name in ("MiniCPM-SALA", "MiniCPM4-8B")}
    assert prefix_holders(config["MiniCPM-SALA"]) == 21
    assert 21 * state_bytes(config["MiniCPM-SALA"]) <= PREFIX_STATE_BYTES
    assert prefix_holders(config["MiniCPM4-8B"]) == MAX_HOLDERS


def test_an_engine_holds_no_more_states_than_that(
    engines: Engines, greedy: Greedy, hybrid: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "PREFIX_STATE_BYTES", 3 * state_bytes(hybrid.config))
    engine = engines()
    empty = engine.cache.nbytes
    for number in range(10, 18):
        ids(engine.submit(greedy(prompt(number, 20), 2)))
    assert engine.cache.nbytes == empty + 3 * state_bytes(hybrid.config)


def test_pages_are_counted_for_a_model_that_keeps_nothing_in_them() -> None:
    config = parse(tiny_config("minicpm-sala") | {"mixer_types": ["lightning"] * 4})
    assert memory.default_pages(config, "float32", 10**9) == config.context // 64
