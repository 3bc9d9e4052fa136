"""Compares two models on a text with a sign of life, and puts what was found in lines."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpm.cli.failures import stage
from minicpm.cli.progress import bytes_bar, count_bar, spinner

if TYPE_CHECKING:
    from minicpm.checkpoint import Checkpoint
    from minicpm.convert.quality import Compared, Comparison, Side
    from minicpm.convert.texts import Sequences

_STOPPED = "Stopped. Nothing was changed."


def find(name: str, *, offline: bool) -> "Checkpoint":
    """The opened checkpoint of what a user calls a model; pulled where it is not here."""
    from minicpm.checkpoint import open_checkpoint, resolve

    kept = f"Stopped before {name} was here. What was fetched is kept, and the next try continues from there."
    with stage(kept), bytes_bar(f"Pulling {name}") as progress:
        return open_checkpoint(resolve(name, offline=offline, progress=progress))


def read_text(text: str, checkpoint: "Checkpoint", *, tokens: int | None) -> "Sequences":
    """A text to compare on, as a model reads it; BadInput for one that says nothing."""
    from minicpm.convert.texts import read_sequences
    from minicpm.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_folder(checkpoint.path)
    return read_sequences(text, tokenizer, purpose="comparison", tokens=tokens)


def compare_models(
    a: tuple[str, "Checkpoint"],
    b: tuple[str, "Checkpoint"],
    text: str,
    *,
    tokens: int | None,
    loading: dict[str, Any],
    stopped: str = _STOPPED,
) -> "Comparison":
    """What b predicts beside a on a text; both are named and loaded with the same options."""
    from minicpm.convert.quality import compare, require_same_vocabulary

    with stage(stopped):
        sequences = read_text(text, a[1], tokens=tokens)
        require_same_vocabulary(a[1], b[1], sequences)
        one, other = (_load(name, checkpoint, loading) for name, checkpoint in (a, b))
        with count_bar("Comparing, tokens") as count:
            return compare(one, other, sequences, progress=lambda done, total, label: count(done, total))


def _load(name: str, checkpoint: "Checkpoint", loading: dict[str, Any]) -> "Compared":
    from minicpm.checkpoint import load
    from minicpm.convert.quality import Compared

    with spinner(f"Loading {name}"):
        return Compared(name, checkpoint, load(checkpoint, **loading))


def draw(comparison: "Comparison", plot: Path) -> None:
    """Draw it to a file that `check_plot` has passed."""
    from minicpm.bench.quality_plot import plot_comparison

    plot_comparison(comparison, plot)


def lines(comparison: "Comparison") -> list[str]:
    """What was found, for people."""
    from minicpm.cli.units import columns

    rows = [("MODEL", "PERPLEXITY", "WEIGHTS", "BITS PER WEIGHT"), _row(comparison.a), _row(comparison.b)]
    return [
        *columns(rows),
        "",
        f"divergence  mean {comparison.kl_mean:.4g}, median {comparison.kl_median:.3g}, 99th percentile "
        f"{comparison.kl_p99:.3g} nats per token, over {comparison.tokens:,} tokens of {comparison.text}",
        f"same token  {comparison.top1:.2%} of the time both find the same one likeliest",
        f"perplexity  {comparison.perplexity_ratio - 1:+.2%}",
    ]


def _row(side: "Side") -> tuple[str, ...]:
    from minicpm.cli.units import size

    return side.name, f"{side.perplexity:.4g}", size(side.weight_bytes), f"{side.bits_per_weight:.2f}"
