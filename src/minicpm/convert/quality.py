"""How far a model's predictions are from those of another, on a text, and what it takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from minicpm.cache import Batch
from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.progress import Progress
from minicpm.config import parameter_count
from minicpm.convert.texts import Sequences
from minicpm.errors import BadInput
from minicpm.models.decoder import Decoder
from minicpm.text.tokenizer import Tokenizer

_LOGITS = 1 << 22
"""Logits of a model looked at together, so that a large vocabulary does not ask for gigabytes."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of two models: its perplexity on the text, and the bytes of its weights as they are stored."""

    name: str
    perplexity: float
    weight_bytes: int
    bits_per_weight: float


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What `b` predicts beside `a`, over `tokens` predicted tokens.

    `kl` [N] float32 is the Kullback-Leibler divergence of a's distribution of each next token from b's, in
    nats; `top1` the share of tokens for which both find the same one likeliest.
    """

    a: Side
    b: Side
    text: str
    kl: Tensor
    top1: float

    @property
    def tokens(self) -> int:
        """Tokens that were predicted."""
        return len(self.kl)

    @property
    def kl_mean(self) -> float:
        """The mean divergence."""
        return self.kl.double().mean().item()

    @property
    def kl_median(self) -> float:
        """Half of the tokens diverge less."""
        return self.kl.median().item()

    @property
    def kl_p99(self) -> float:
        """The 99th percentile: one token in a hundred diverges more."""
        return self.kl.sort().values[math.ceil(0.99 * len(self.kl)) - 1].item()

    @property
    def perplexity_ratio(self) -> float:
        """b's perplexity over a's."""
        return self.b.perplexity / self.a.perplexity

    def document(self) -> dict[str, Any]:
        """All numbers but those of single tokens."""
        return {
            "text": self.text,
            "tokens": self.tokens,
            "a": asdict(self.a),
            "b": asdict(self.b),
            "perplexity_ratio": self.perplexity_ratio,
            "kl_mean": self.kl_mean,
            "kl_median": self.kl_median,
            "kl_p99": self.kl_p99,
            "top1_agreement": self.top1,
        }


@dataclass(frozen=True, eq=False)
class Compared:
    """A model to be compared: what it is called, its files, and itself."""

    name: str
    checkpoint: Checkpoint
    decoder: Decoder


def require_same_vocabulary(a: Checkpoint, b: Checkpoint, text: Sequences) -> None:
    """Raise BadInput unless two checkpoints have one vocabulary, which gives a text the same ids."""
    one, other = (Tokenizer.from_folder(checkpoint.path) for checkpoint in (a, b))
    same = one.vocab_size == other.vocab_size and one.special_ids == other.special_ids
    sample = one.decode(text.ids[0].tolist())
    if same and one.encode(sample) == other.encode(sample):
        return
    raise BadInput(
        f"{a.path.name} and {b.path.name} have different vocabularies ({one.vocab_size:,} and "
        f"{other.vocab_size:,} tokens), so what they predict for a token cannot be compared. Compare models "
        "of one vocabulary, such as a model and its quantized form."
    )


@torch.no_grad()
def compare(a: Compared, b: Compared, text: Sequences, *, progress: Progress | None = None) -> Comparison:
    """Compare two models on sequences, each by itself and without a cache.

    Log-probabilities are exact log-softmaxes in float32. Raises BadInput for heads of different sizes.
    """
    if a.decoder.config.vocab != b.decoder.config.vocab:
        raise BadInput(
            f"{a.name} predicts {a.decoder.config.vocab:,} tokens and {b.name} {b.decoder.config.vocab:,}, "
            "so their predictions cannot be compared. Compare models of one vocabulary."
        )
    divergences, losses, agreed, done, mask = [], [0.0, 0.0], 0, 0, text.mask
    for batch in text.batches():
        counted = mask[done : done + len(batch.ids)]
        for logs, targets in _predictions((a.decoder, b.decoder), batch, counted):
            divergences.append((logs[0].exp() * (logs[0] - logs[1])).sum(dim=-1).clamp_min(0))
            agreed += int((logs[0].argmax(dim=-1) == logs[1].argmax(dim=-1)).sum())
            for side, log in enumerate(logs):
                losses[side] -= log.gather(1, targets[:, None]).double().sum().item()
        done += len(batch.ids)
        if progress is not None:
            progress(done, text.tokens, text.name)
    kl = torch.cat(divergences)
    one, other = (_side(m, loss / len(kl)) for m, loss in zip((a, b), losses, strict=True))
    return Comparison(one, other, text=text.name, kl=kl, top1=agreed / len(kl))


def _predictions(
    decoders: Sequence[Decoder], batch: Batch, counted: Tensor
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Log-probabilities [R, V] of every decoder and the tokens [R] that came, for runs of those counted."""
    hidden = [decoder(replace(batch, ids=batch.ids.to(decoder.device))) for decoder in decoders]
    before = counted.nonzero()[:, 0] - 1
    for rows in before.split(max(1, _LOGITS // decoders[0].config.vocab)):
        logs = [
            decoder.logits(h[rows.to(h.device)]).log_softmax(dim=-1).cpu()
            for decoder, h in zip(decoders, hidden, strict=True)
        ]
        yield logs, batch.ids[rows + 1]


def _side(model: Compared, loss: float) -> Side:
    stored, weights = model.checkpoint.total_bytes, parameter_count(model.decoder.config)
    return Side(model.name, math.exp(loss) if loss < 700 else math.inf, stored, 8 * stored / weights)
