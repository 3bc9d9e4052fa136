"""One toy decoder for all engine tests, and engines over it that must end with every page free."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from minicpm import load_decoder
from minicpm.engine.engine import Engine
from minicpm.engine.request import Request
from minicpm.engine.sampling import SamplingParams
from minicpm.models.decoder import Decoder
from minicpm.testing import tiny_checkpoint


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy checkpoint whose next token depends on much more than the last one."""
    return tiny_checkpoint("minicpm5-1b", tmp_path_factory.mktemp("engine") / "tiny")


@pytest.fixture(scope="session")
def decoder(folder: Path) -> Decoder:
    return load_decoder(folder, dtype="float32")


@pytest.fixture
def engine_of(decoder: Decoder) -> Iterator[Callable[..., Engine]]:
    """Makes engines; afterwards none of them may hold a page for a sequence that has ended."""
    made: list[Engine] = []

    def make(**options: Any) -> Engine:
        made.append(Engine(decoder, **{"pages": 32, **options}))
        return made[-1]

    yield make
    for engine in made:
        assert engine.idle, "a request was left unfinished"
        engine.drop_prefixes()
        assert engine.cache.free_pages == engine.cache.total_pages, "pages leaked"


@pytest.fixture(scope="session")
def alone(decoder: Decoder) -> Callable[[Sequence[int], int], list[int]]:
    """Greedy continuation by full recomputation, one token at a time: the naive model of the engine."""
    known: dict[tuple[int, ...], int] = {}

    def following(ids: tuple[int, ...]) -> int:
        if ids not in known:
            with torch.inference_mode():
                known[ids] = int(decoder.logits_for(list(ids))[-1].argmax())
        return known[ids]

    def continuation(prompt: Sequence[int], count: int) -> list[int]:
        ids = tuple(prompt)
        for _ in range(count):
            ids += (following(ids),)
        return list(ids[len(prompt) :])

    return continuation


@pytest.fixture(scope="session")
def greedy() -> Callable[..., Request]:
    """A greedy request."""

    def make(prompt: Sequence[int], max_tokens: int, **options: Any) -> Request:
        return Request(prompt, SamplingParams(temperature=0, max_tokens=max_tokens, **options))

    return make
