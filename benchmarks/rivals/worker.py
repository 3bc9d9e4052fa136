"""A rival's side of the conversation: one JSON line per request in, one per answer out."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rivals.quiet import Others

Raw = Mapping[str, Any]
Answer = dict[str, Any]

# Every how many logits one is compared.
LOGIT_STRIDE = 16
# Tokens of the first, untimed prefill, in which kernels are chosen and memory is taken.
WARM_TOKENS = 512
# Untimed decode steps at first, for the same reason, and then in every turn, because the processor's caches
# are full of what the rival before has used.
FIRST_STEPS, WARM_STEPS = 4, 1


class Unsupported(Exception):
    """Raised by a rival for work it cannot do; the message says why."""


class Model(Protocol):
    """A loaded model with its sequences; the rival's libraries are behind it."""

    def begin(self, context: int, room: int, streams: int) -> None:
        """Let each sequence hold `context` tokens, of any content, with room for `room` tokens in all."""
        ...

    def prefill(self, ids: Sequence[int]) -> None:
        """Append ids to the first sequence and compute the logits of the last."""
        ...

    def step(self, ids: Sequence[int]) -> None:
        """Append one id to each sequence and compute the logits of all of them."""
        ...

    def logits(self) -> Sequence[float]:
        """Logits of the last token of the first sequence."""
        ...

    def close(self) -> None:
        """Free what the model holds."""
        ...


class Rival(Protocol):
    """A program that runs models."""

    def versions(self) -> dict[str, str]:
        """What is installed."""
        ...

    def open(self, raw: Raw, weights: str, *, sparse: bool) -> Model:
        """Random weights of this config in a format; raises Unsupported."""
        ...


def main(make: Callable[[int, Path], Rival]) -> None:
    """Answer requests until there are no more; the arguments are threads and a folder for model files."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to the log
    handler = _Handler(make(int(sys.argv[1]), Path(sys.argv[2])))
    for line in sys.stdin:
        answers.write(json.dumps(handler.answer(json.loads(line))) + "\n")


class _Turn:
    """Times some work."""

    def __init__(self) -> None:
        self._others = Others()
        self._began = time.perf_counter()

    def end(self) -> Answer:
        """How long it took, and the cores that other programs used meanwhile."""
        return {"seconds": time.perf_counter() - self._began, "others": self._others.cores()}


class _Handler:
    """Holds one model and times it."""

    def __init__(self, rival: Any) -> None:
        self._rival = rival
        self._model: Model | None = None
        self._key: tuple[Any, ...] | None = None
        self._warm: set[str] = set()

    def answer(self, request: Answer) -> Answer:
        work = request.pop("work")
        try:
            return getattr(self, f"do_{work}")(**request)
        except Unsupported as reason:
            return {"unsupported": str(reason)}
        except Exception:  # noqa: BLE001 - the process at the other end decides
            return {"error": traceback.format_exc()}

    def do_versions(self) -> Answer:
        return {"versions": self._rival.versions()}

    def do_open(self, raw: Answer, weights: str, *, sparse: bool = False) -> Answer:
        key = (json.dumps(raw, sort_keys=True), weights, sparse)
        if key != self._key:
            self.do_close()
            self._model = self._rival.open(raw, weights, sparse=sparse)
            self._key = key
        return {}

    def do_close(self) -> Answer:
        if self._model is not None:
            self._model.close()
        self._model, self._key = None, None
        self._warm.clear()
        return {}

    def do_check(self, ids: list[int]) -> Answer:
        """Logits after a prompt and one more token, so that both ways of feeding are checked."""
        model = self._opened
        model.begin(0, len(ids), 1)
        model.prefill(ids[:-1])
        model.step(ids[-1:])
        return {"logits": [float(x) for x in model.logits()[::LOGIT_STRIDE]]}

    def do_prefill(self, tokens: int) -> Answer:
        model, ids = self._opened, [(31 * i + 7) % 32000 for i in range(tokens)]
        if self._is_first("prefill"):
            model.begin(0, tokens, 1)
            model.prefill(ids[:WARM_TOKENS])
        model.begin(0, tokens, 1)
        turn = _Turn()
        model.prefill(ids)
        return self._measured(turn, tokens, context=tokens)

    def do_decode(self, context: int, tokens: int, streams: int = 1) -> Answer:
        model, ids = self._opened, [5] * streams
        model.begin(context, context + FIRST_STEPS + tokens, streams)
        for _ in range(FIRST_STEPS if self._is_first(f"decode {context} {streams}") else WARM_STEPS):
            model.step(ids)
        turn = _Turn()
        for _ in range(tokens):
            model.step(ids)
        return self._measured(turn, tokens * streams, context=context, streams=streams)

    def do_bandwidth(self) -> Answer:
        """Bytes per second that memory gives, from the rival that can say."""
        return {"bytes_per_second": self._rival.bandwidth()}

    def do_arithmetic(self) -> Answer:
        """Operations per second of a large product, from the rival that can say."""
        return {"operations_per_second": self._rival.arithmetic()}

    @property
    def _opened(self) -> Model:
        assert self._model is not None, "a model is opened before it works"
        return self._model

    def _is_first(self, work: str) -> bool:
        first = work not in self._warm
        self._warm.add(work)
        return first

    def _measured(self, turn: _Turn, tokens: int, *, context: int, streams: int = 1) -> Answer:
        answer = turn.end() | {"tokens": tokens}
        if hasattr(self._model, "bytes_per_step"):
            answer["bytes_per_step"] = self._model.bytes_per_step(context, streams)
        return answer
