"""Serves any number of requests on one decoder: submit, step, stream."""

import threading
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from minicpm.cache import PAGE
from minicpm.config.kv import AUTO
from minicpm.engine.admission import Limits, longest
from minicpm.engine.images import ImageNumbers, check_images
from minicpm.engine.memory import prefix_holders
from minicpm.engine.prefix import PrefixIndex
from minicpm.engine.request import FinishReason, Request, Sequence, sequences
from minicpm.engine.runner import Outcome, Runner
from minicpm.engine.scheduler import Plan, Scheduler, Work
from minicpm.engine.stops import StopSet
from minicpm.engine.stream import Stream, TokenOutput
from minicpm.engine.writer import Writer
from minicpm.errors import BadParameter, QueueFull, RequestError, StepFailed
from minicpm.models.decoder import Decoder


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did; all zero and empty when there was nothing to do."""

    computed_tokens: int = 0
    outputs: tuple[TokenOutput, ...] = ()
    finished: tuple[Stream, ...] = ()
    preempted: int = 0


class Engine:
    """Continuous batching with a paged cache, chunked prefill and prefix reuse.

    Threads: `submit`, `abort` and reading streams are safe from any thread. Steps run one at a time, in
    whichever thread calls `step`, `run` or reads a stream that has nothing ready. The engine owns the cache.
    A failing step fails the requests in it with StepFailed, frees their pages, and the engine goes on.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        pages: int | None = None,
        max_batch_tokens: int = 512,
        max_sequences: int = 64,
        max_requests: int = 1024,
        eos_ids: Iterable[int] = (),
        prefix_cache: bool = True,
        kv: str = AUTO,
    ) -> None:
        """`pages` of 64 tokens: one full context unless said. `max_requests` bounds unfinished requests.

        `kv` is as for `Decoder.new_cache`.
        """
        pages = -(-decoder.config.context // PAGE) if pages is None else pages
        _check_sizes(
            pages=pages,
            max_batch_tokens=max_batch_tokens,
            max_sequences=max_sequences,
            max_requests=max_requests,
        )
        self.decoder = decoder
        self.cache = decoder.new_cache(pages, kv=kv)
        self.limits = Limits(
            context=decoder.config.context,
            cache_tokens=self.cache.total_pages * PAGE,
            vocab=decoder.config.vocab,
        )
        holders = prefix_holders(decoder.config)
        self._prefix = PrefixIndex(self.cache, enabled=prefix_cache, max_holders=holders)
        self._scheduler = Scheduler(
            self.cache, self._prefix, max_batch_tokens=max_batch_tokens, max_sequences=max_sequences
        )
        self._runner = Runner(decoder, self.cache)
        self._max_requests = max_requests
        self._eos_ids = frozenset(eos_ids)
        self._streams: dict[int, Stream] = {}
        vision = decoder.config.vision
        self._numbers = ImageNumbers(vision.resampler.queries if vision else 0)
        self._submitted = 0
        self._arrivals: deque[Stream] = deque()
        self._aborts: deque[Stream] = deque()
        # Guards _streams, _submitted, _numbers; re-entrant: an answer aborts itself wherever it is collected.
        self._registry = threading.RLock()
        self._stepping = threading.Lock()  # guards scheduler, prefix index, cache and decoder

    @property
    def idle(self) -> bool:
        """True when every submitted request has ended."""
        return not self._streams

    def submit(self, request: Request) -> Stream:
        """Puts a request in line.

        Raises BadParameter, PromptTooLong or CapacityError when it can never be served, QueueFull when too
        many requests are unfinished.
        """
        self.decoder.adapters.require(request.adapter)
        limit = longest(request, self.limits)
        check_images(request.images, len(request.prompt_ids), self.decoder.config)
        stops = StopSet(request.params.stop) if request.params.stop else None
        with self._registry:
            if len(self._streams) >= self._max_requests:
                raise QueueFull(
                    f"{len(self._streams):,} requests are unfinished and the engine accepts "
                    f"{self._max_requests:,} at a time. Try again when one has ended."
                )
            self._submitted += 1
            images = self._numbers.numbered(request.images)
            members = sequences(request, self._submitted, limit=limit, eos_ids=self._eos_ids, images=images)
            writers = [_writer(request, stops) for _ in members]
            stream = Stream(request, members, writers, pump=self._pump, abort=self.abort)
            self._streams[self._submitted] = stream
            self._arrivals.append(stream)
        return stream

    def abort(self, stream: Stream) -> None:
        """Ends a request; its pages are free at once, or right after the step another thread is running."""
        self._aborts.append(stream)
        self._settle()

    def step(self) -> StepReport:
        """Computes one batch."""
        with self._stepping:
            report = self._step()
        self._settle()
        return report

    def run(self) -> None:
        """Steps until every request has ended."""
        while not self.idle:
            self.step()

    def drop_prefixes(self) -> None:
        """Forgets finished sequences, so that only live ones hold pages."""
        with self._stepping:
            self._prefix.clear()

    def _pump(self, stream: Stream) -> None:
        with self._stepping:
            if not stream.ready:
                self._step()
        self._settle()

    def _settle(self) -> None:
        """Applies aborts that came during a step, unless another step has begun: that one applies them."""
        while self._aborts and self._stepping.acquire(blocking=False):
            try:
                self._take_in()
            finally:
                self._stepping.release()

    def _take_in(self) -> None:
        while self._arrivals:
            leader = self._arrivals.popleft().sequences[0]
            if not leader.finished:
                self._scheduler.add(leader)
        while self._aborts:
            self._close(self._aborts.popleft(), "abort")

    def _step(self) -> StepReport:
        self._take_in()
        plan = self._scheduler.plan()
        if not plan.works:
            return StepReport()
        streams = self._streams_of(plan.works)
        for stream in streams:
            stream.start()
        try:
            return self._delivered(plan, streams, self._runner.run(plan.works))
        except Exception as cause:  # noqa: BLE001 - whatever a kernel raises, the other requests must live on
            return self._failed(plan, streams, cause)
        except BaseException:
            for stream in streams:
                self._close(stream, "abort")
            raise

    def _delivered(self, plan: Plan, streams: list[Stream], outcomes: list[Outcome]) -> StepReport:
        outputs: list[TokenOutput] = []
        for work, outcome in zip(plan.works, outcomes, strict=True):
            work.sequence.prompt_scores.update(outcome.prompt_scores)
            outputs.extend(self._accept(work.sequence, outcome))
        return StepReport(
            computed_tokens=sum(work.count for work in plan.works),
            outputs=tuple(outputs),
            finished=tuple(stream for stream in streams if stream.done),
            preempted=len(plan.preempted),
        )

    def _accept(self, sequence: Sequence, outcome: Outcome) -> Iterable[TokenOutput]:
        draw = outcome.draw
        if draw is None or sequence.finished:
            return
        stream = self._streams[sequence.order[0]]
        if draw.token is None:
            self._close(stream, "error", StepFailed(_NO_TOKEN))
            return
        output = stream.write(sequence, draw.token, draw)
        if sequence is stream.sequences[0] and sequence.generated == 1:
            for sibling in stream.sequences[1:]:
                self._scheduler.add(sibling)
        if output.finish_reason is not None:
            self._scheduler.remove(sequence, output.finish_reason)
            self._forget_if_done(stream)
        yield output

    def _failed(self, plan: Plan, streams: list[Stream], cause: Exception) -> StepReport:
        for stream in streams:
            error = StepFailed(
                f"A step failed with {type(cause).__name__}: {cause}. The engine goes on; try again."
            )
            error.__cause__ = cause
            self._close(stream, "error", error)
        return StepReport(finished=tuple(streams), preempted=len(plan.preempted))

    def _close(self, stream: Stream, reason: FinishReason, error: RequestError | None = None) -> None:
        if not stream.done:
            stream.error = error
        for sequence in stream.sequences:
            if not sequence.finished:
                self._scheduler.remove(sequence, reason)
        self._forget_if_done(stream)

    def _forget_if_done(self, stream: Stream) -> None:
        if stream.done:
            stream.end()
            with self._registry:
                self._streams.pop(stream.sequences[0].order[0], None)

    def _streams_of(self, works: Collection[Work]) -> list[Stream]:
        return [self._streams[number] for number in dict.fromkeys(w.sequence.order[0] for w in works)]


def _check_sizes(**sizes: int) -> None:
    wrong = [f"{name} must be at least 1, not {size}" for name, size in sizes.items() if size < 1]
    if wrong:
        raise BadParameter("The engine cannot be set up: " + "; ".join(wrong) + ".")


def _writer(request: Request, stops: StopSet | None) -> Writer:
    detokenizer = request.detokenizer() if request.detokenizer else None
    return Writer(detokenizer, stops, min_tokens=request.params.min_tokens)


_NO_TOKEN = (
    "No token can be chosen: the largest logit is not a finite number. Either logit_bias forbids every "
    "token, or the weights overflow in this dtype; try float32."
)
