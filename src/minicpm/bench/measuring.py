"""Measures the decoding and prefill of one shape in all the ways asked for, correctness first."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal

import torch

from minicpm.bench.check import check_chunks, check_shape
from minicpm.bench.decode import MOST_STEPS, time_decode
from minicpm.bench.limits import Limits, measure_again, measure_limits
from minicpm.bench.memory import forget_peak, peak_bytes, require_room
from minicpm.bench.prefill import time_prefill
from minicpm.bench.random_model import random_decoder
from minicpm.bench.shapes import Shape
from minicpm.bench.timing import Timing
from minicpm.bench.weights import HOLDING, Footprint, check_format, footprint
from minicpm.bench.work import Work, decode_work, prefill_work
from minicpm.checkpoint import load, open_checkpoint
from minicpm.config import InfLLM, ModelConfig
from minicpm.config.kv import AUTO, check_kv
from minicpm.config.sparse import with_sparse
from minicpm.errors import BadParameter
from minicpm.models.decoder import Decoder
from minicpm.models.kv import require_kv
from minicpm.ops.backend import check_backend, choose_backend

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure: every combination of weights with prompts, and with contexts and batches."""

    shape: Shape
    weights: tuple[str, ...] = ("int4",)
    prompts: tuple[int, ...] = (512,)
    contexts: tuple[int, ...] = (0, 4096)
    batches: tuple[int, ...] = (1,)
    sparse: str = "auto"
    kv: str = AUTO
    backend: str = "auto"
    threads: int | None = None
    repeats: int = 5

    def __post_init__(self) -> None:
        wrong = [f"a prompt of {n} tokens" for n in self.prompts if n < 1]
        wrong += [f"a context of {n} tokens" for n in self.contexts if n < 0]
        wrong += [f"a batch of {n}" for n in self.batches if n < 1]
        wrong += [f"{self.repeats} repeats"] if self.repeats < 1 else []
        wrong += [f"{self.threads} threads"] if self.threads is not None and self.threads < 1 else []
        if wrong:
            raise BadParameter(f"Nothing can be measured with {', '.join(wrong)}. Give 1 or more.")
        check_backend(self.backend)
        check_kv(self.kv)
        for weights in self.weights:
            check_format(weights)

    @property
    def resolved(self) -> Shape:
        """The shape with its attention dense or sparse as asked for."""
        return replace(self.shape, config=with_sparse(self.shape.config, self.sparse))


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement. `seconds` is one step of decoding, or the time to the first token of a prompt.

    Rates are medians, with the least and the greatest. `share_of_limit` is the least possible time over the
    median one, by what `bound` names; `read_bytes_s` and `ops_s` say what was reached of each.
    """

    work: Literal["decode", "prefill"]
    shape: str
    layers: int
    weights: str
    context: int
    batch: int
    sparse: bool
    kv: str
    backend: str
    tok_s: float
    tok_s_least: float
    tok_s_greatest: float
    seconds: float
    repeats: int
    share_of_limit: float
    bound: str
    read_bytes_s: float
    ops_s: float
    peak_bytes: int

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {key: _rounded(value) for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Checked:
    """How far the logits of these weights were from what they should be, relatively."""

    weights: str
    against_float32: float
    chunks_against_whole: float


Event = Limits | Checked | Row


def measure(plan: Plan, *, say: Say = lambda text: None) -> Iterator[Event]:
    """The limits of this machine, then for all weights how right they are and their rows, as they come.

    The limits are measured again beside each row, because others may be busy here; the best so far counts,
    and comes last once more. `say` hears what is about to be done. Raises BadParameter and CapacityError
    before anything is built, and StepFailed where wrong numbers would be timed.
    """
    shape = plan.resolved
    _require_room(plan, shape)
    _require_kv(plan, shape)
    with _torch_threads(plan.threads):
        say("what this machine can do")
        limits = measure_limits(plan.threads)
        yield limits
        for weights in plan.weights:
            limits = yield from _measure_weights(plan, shape, weights, limits, say)
        yield limits


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    """So many threads for the operators of torch within this block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _require_room(plan: Plan, shape: Shape) -> None:
    for weights in plan.weights:
        held = footprint(shape.config, weights)
        for tokens in plan.prompts:
            require_room(shape.config, held, tokens=tokens, batch=1, kv=plan.kv)
        for context, batch in product(plan.contexts, plan.batches):
            require_room(shape.config, held, tokens=context + MOST_STEPS, batch=batch, kv=plan.kv)


def _require_kv(plan: Plan, shape: Shape) -> None:
    dtype, device = torch.bfloat16, torch.device("cpu")
    backend = choose_backend(plan.backend, dtype=dtype, device=device, threads=plan.threads)
    require_kv(plan.kv, shape.config, backend, dtype=dtype, device=device)


def _measure_weights(
    plan: Plan, shape: Shape, weights: str, limits: Limits, say: Say
) -> Generator[Event, None, Limits]:
    say(f"whether {weights} weights give right numbers")
    against = check_shape(shape, weights, backend=plan.backend, threads=plan.threads, kv=plan.kv)
    decoder = _decoder(shape, weights, plan.sparse)
    decoder.prepare(plan.backend, threads=plan.threads)
    yield Checked(weights, against, check_chunks(decoder, weights, kv=plan.kv))
    held = footprint(shape.config, weights)
    for job in _jobs(plan):
        say(f"{job.work} with {weights} weights, {job.batch} x {job.tokens:,} tokens")
        limits = measure_again(limits, plan.threads)
        timing = _timed(job, decoder, plan.repeats)
        yield _row(job, timing, decoder, held=held, limits=limits, of=(shape, weights))
    return limits


@dataclass(frozen=True, slots=True)
class _Job:
    """A prompt of so many tokens, or so many sequences with so many tokens of context each."""

    work: Literal["decode", "prefill"]
    tokens: int
    batch: int
    kv: str


def _jobs(plan: Plan) -> Iterator[_Job]:
    yield from (_Job("prefill", tokens, 1, plan.kv) for tokens in plan.prompts)
    decoded = product(plan.batches, plan.contexts)
    yield from (_Job("decode", context, batch, plan.kv) for batch, context in decoded)


def _decoder(shape: Shape, weights: str, sparse: str) -> Decoder:
    """An unprepared decoder with the weights of the shape's folder, or random ones."""
    if shape.folder is None:
        return random_decoder(shape.config, weights)
    return load(
        open_checkpoint(shape.folder),
        dtype="bfloat16",
        sparse=sparse,
        weights=HOLDING[weights],
        prepare=False,
    ).eval()


def _timed(job: _Job, decoder: Decoder, repeats: int) -> Timing:
    forget_peak()
    if job.work == "prefill":
        return time_prefill(decoder, tokens=job.tokens, repeats=repeats, kv=job.kv)
    return time_decode(decoder, context=job.tokens, batch=job.batch, repeats=repeats, kv=job.kv)


def _needed(job: _Job, config: ModelConfig, held: Footprint) -> Work:
    if job.work == "prefill":
        return prefill_work(config, held, job.tokens)
    return decode_work(config, held, [job.tokens] * job.batch, kv=job.kv)


def _row(
    job: _Job, timing: Timing, decoder: Decoder, *, held: Footprint, limits: Limits, of: tuple[Shape, str]
) -> Row:
    shape, weights = of
    work = _needed(job, shape.config, held)
    least, bound = limits.seconds(work, weights)
    tokens = job.tokens if job.work == "prefill" else job.batch
    layers = shape.config.layers
    return Row(
        work=job.work,
        shape=shape.name,
        layers=len(layers),
        weights=weights,
        context=job.tokens,
        batch=job.batch,
        sparse=any(isinstance(layer.mixer, InfLLM) for layer in layers),
        kv=job.kv,
        backend=decoder.backend.name,
        tok_s=tokens / timing.median,
        tok_s_least=tokens / max(timing.seconds),
        tok_s_greatest=tokens / min(timing.seconds),
        seconds=timing.median,
        repeats=len(timing.seconds),
        share_of_limit=least / timing.median,
        bound=bound,
        read_bytes_s=work.nbytes / timing.median,
        ops_s=(work.on_weights + work.on_context) / timing.median,
        peak_bytes=peak_bytes(),
    )


def document(events: Sequence[Event]) -> dict[str, Any]:
    """What was measured, for JSON: the last limits, checks and rows."""
    *_, limits = [event for event in events if isinstance(event, Limits)]
    return {
        "limits": {key: _rounded(value) for key, value in limits.document().items()},
        "checks": [asdict(event) for event in events if isinstance(event, Checked)],
        "rows": [event.document() for event in events if isinstance(event, Row)],
    }


def _rounded(value: Any) -> Any:
    """Five digits: more are noise."""
    return float(f"{value:.5g}") if isinstance(value, float) else value
