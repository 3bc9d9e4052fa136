"""What a caller holds while its request is answered."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

from minicpm.engine.request import FinishReason, Request, Sequence, TokenScore
from minicpm.engine.sampler import Draw
from minicpm.engine.writer import Writer
from minicpm.errors import RequestError


@dataclass(frozen=True, slots=True)
class TokenOutput:
    """One token of one sample, the text that became certain with it, and the finish reason on the last one.

    Text lags behind ids while a character or a stop string is incomplete. A stop id has no text of its own.
    """

    sample: int
    id: int
    text: str
    score: TokenScore | None = None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished (or so far written) answer; scores as SamplingParams.logprobs asks."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason | None
    scores: tuple[TokenScore, ...] | None


@dataclass(frozen=True, slots=True)
class Result:
    """All samples of a request; prompt_scores[i] belongs to prompt token i, None for the first.

    `cached_tokens` of the prompt were not computed again. Seconds do not count waiting in line.
    """

    samples: tuple[Sample, ...]
    prompt_tokens: int
    cached_tokens: int
    prompt_scores: tuple[TokenScore | None, ...] | None
    prefill_s: float
    decode_s: float


class Stream:
    """Iterates TokenOutputs as they come; `result()` reads to the end; `abort()` or leaving `with` stops.

    Who reads a token that is not there yet runs engine steps itself, unless another thread is running one.
    One thread consumes a stream. Iteration raises StepFailed when the computation failed.
    """

    def __init__(
        self,
        request: Request,
        sequences: list[Sequence],
        writers: list[Writer],
        *,
        pump: Callable[["Stream"], None],
        abort: Callable[["Stream"], None],
    ) -> None:
        self.request = request
        self.sequences = sequences
        self.error: RequestError | None = None
        self._writers = writers
        self._texts: list[list[str]] = [[] for _ in sequences]
        self._scores: list[list[TokenScore]] = [[] for _ in sequences]
        self._queue: deque[TokenOutput] = deque()
        self._pump, self._abort = pump, abort
        self._times: dict[str, float] = {}

    @property
    def done(self) -> bool:
        """True when no more tokens will come; some may still wait to be read."""
        return all(sequence.finished for sequence in self.sequences)

    @property
    def ready(self) -> bool:
        """True when reading does not need another step."""
        return bool(self._queue) or self.done

    def __iter__(self) -> Iterator[TokenOutput]:
        return self

    def __next__(self) -> TokenOutput:
        while not self._queue:
            if not self.done:
                self._pump(self)
            elif not self._queue:  # the last token may have come between the two looks
                raise self.error or StopIteration
        return self._queue.popleft()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def abort(self) -> None:
        """Stops all samples, from any thread and in any state; a finished stream stays as it is."""
        if not self.done:
            self._abort(self)

    def result(self) -> Result:
        """Reads to the end and returns everything, tokens already read included."""
        for _ in self:
            pass
        return self.so_far()

    def so_far(self) -> Result:
        """What has been written until now."""
        leader = self.sequences[0]
        places = range(leader.prompt_length if self.request.params.prompt_logprobs is not None else 0)
        return Result(
            samples=tuple(self._sample(index) for index in range(len(self.sequences))),
            prompt_tokens=leader.prompt_length,
            cached_tokens=leader.cached,
            prompt_scores=tuple(leader.prompt_scores.get(place) for place in places) or None,
            prefill_s=self._between("started", "first"),
            decode_s=self._between("first", "ended"),
        )

    def start(self) -> None:
        """Called by the engine when a step works on the stream."""
        self._times.setdefault("started", time.perf_counter())

    def write(self, sequence: Sequence, token: int, draw: Draw) -> TokenOutput:
        """Called by the engine for each new token: adds it, decides whether the sample ends, and delivers."""
        index = sequence.order[1]
        sequence.tokens.append(token)
        self._times.setdefault("first", time.perf_counter())
        text, reason = self._end_of(sequence, token)
        output = TokenOutput(index, token, text, draw.score, reason)
        self._texts[index].append(text)
        if draw.score is not None:
            self._scores[index].append(draw.score)
        self._queue.append(output)
        return output

    def end(self) -> None:
        """Called by the engine when the last sample has ended."""
        self._times.setdefault("ended", time.perf_counter())

    def _end_of(self, sequence: Sequence, token: int) -> tuple[str, FinishReason | None]:
        writer = self._writers[sequence.order[1]]
        if token in sequence.stop_ids:
            return writer.finish(), "stop"
        text = writer.push(token)
        if not writer.stopped and len(sequence.tokens) >= sequence.limit:
            return text + writer.finish(), "stop" if writer.stopped else "length"
        return text, "stop" if writer.stopped else None

    def _sample(self, index: int) -> Sample:
        sequence = self.sequences[index]
        scored = self.request.params.logprobs is not None
        return Sample(
            token_ids=tuple(sequence.tokens[sequence.prompt_length :]),
            text="".join(self._texts[index]),
            finish_reason=sequence.finish_reason,
            scores=tuple(self._scores[index]) if scored else None,
        )

    def _between(self, first: str, last: str) -> float:
        now = time.perf_counter()
        return self._times.get(last, now) - self._times.get(first, self._times.get(last, now))
