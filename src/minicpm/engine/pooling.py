"""Runs any number of texts through a model that makes one thing of each: packed, in order, within bounds."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from minicpm import checkpoint as checkpoints
from minicpm.cache import Batch
from minicpm.checkpoint.kinds import M
from minicpm.checkpoint.progress import Progress
from minicpm.errors import BadParameter, PromptTooLong, StepFailed
from minicpm.text.tokenizer import Tokenizer

BATCH_TOKENS = 4096
"""Tokens that are computed at once; a single longer text is a batch of its own."""
_WINDOW_BATCHES = 16
_SHOWN = 5

Report: TypeAlias = Callable[[int, int], None]
"""Called with how many texts are done and how many there are."""


def open_pooled(
    kind: type[M],
    model: str | Path,
    *,
    dtype: str | torch.dtype,
    device: str | torch.device,
    backend: str,
    threads: int | None,
    context: int | None,
    revision: str | None,
    offline: bool,
    progress: Progress | None,
) -> tuple[M, Tokenizer]:
    """The module and the tokenizer of a folder or a hub name; WrongKind when the model is another one."""
    folder = checkpoints.resolve(str(model), revision=revision, offline=offline, progress=progress)
    module = checkpoints.load_as(
        kind,
        checkpoints.open_checkpoint(folder),
        dtype=dtype,
        device=device,
        backend=backend,
        threads=threads,
        context=context,
        progress=progress,
    )
    return module, Tokenizer.from_folder(folder)


def check_batch_tokens(batch_tokens: int) -> int:
    """The number itself; BadParameter when it is none that a batch can hold."""
    if batch_tokens < 1:
        raise BadParameter(f"batch_tokens must be at least 1, not {batch_tokens}.")
    return batch_tokens


def check_list(texts: Sequence[str], what: str) -> None:
    """BadParameter for one text where several are wanted; its letters would be taken for texts."""
    if isinstance(texts, str):
        raise BadParameter(f"{what} must be a list of texts, and one text was given; write [text].")


def check_lengths(lengths: Sequence[int], limit: int, what: str) -> None:
    """PromptTooLong, with the numbers, when some are beyond the limit; `what` names one of them."""
    long = [(number, length) for number, length in enumerate(lengths, start=1) if length > limit]
    if not long:
        return
    named = ", ".join(f"number {number} has {length:,}" for number, length in long[:_SHOWN])
    more = f", and {len(long) - _SHOWN} more" if len(long) > _SHOWN else ""
    raise PromptTooLong(
        f"{len(long)} of {len(lengths)} {what} are longer than the {limit:,} tokens that this model takes: "
        f"{named}{more}. Nothing is cut unless you ask for it: shorten them, or ask for truncation "
        "(truncate=True, --truncate)."
    )


def in_order(
    run: Callable[[Batch], Tensor],
    sequences: Sequence[Sequence[int]],
    *,
    device: torch.device,
    batch_tokens: int,
    report: Report | None,
) -> Iterator[Tensor]:
    """What `run` makes of each sequence of ids, in their order, a window of batches at a time.

    Within a window sequences of like length are computed together, which changes no result.
    """
    done = 0
    for window in _windows(sequences, _WINDOW_BATCHES * batch_tokens):
        results: dict[int, Tensor] = {}
        for batch in _batches(sequences, window, batch_tokens):
            ids = [torch.tensor(sequences[i], dtype=torch.int64, device=device) for i in batch]
            results |= zip(batch, _computed(run, Batch.of_sequences(*ids)), strict=True)
            done += len(batch)
            if report is not None:
                report(done, len(sequences))
        yield from (results[i] for i in window)


@torch.inference_mode()
def _computed(run: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
    result = run(batch).cpu()
    if not bool(torch.isfinite(result).all()):
        raise StepFailed("The weights overflow in this dtype: a result is no finite number. Try float32.")
    return result


def _windows(sequences: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
    """Neighbouring sequences, each window of at least one and as many as hold so many tokens."""
    return _filled(sequences, range(len(sequences)), tokens)


def _batches(sequences: Sequence[Sequence[int]], window: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """The window's sequences by length, each batch of at least one and as many as hold so many tokens."""
    return _filled(sequences, sorted(window, key=lambda i: len(sequences[i])), tokens)


def _filled(sequences: Sequence[Sequence[int]], order: Sequence[int], tokens: int) -> Iterator[list[int]]:
    group: list[int] = []
    held = 0
    for i in order:
        if group and held + len(sequences[i]) > tokens:
            yield group
            group, held = [], 0
        group.append(i)
        held += len(sequences[i])
    if group:
        yield group
