"""Draws how far predictions of two models are apart: the share of tokens that diverge more than so much."""

from pathlib import Path

import torch

from minicpm.bench.plot import write_figure
from minicpm.convert.quality import Comparison

_LEAST = 1e-7
"""Divergences below are drawn here; float32 tells no less."""


def plot_comparison(comparison: Comparison, target: Path) -> None:
    """Draw it to `target`, whose name says the format; `check_plot` must have passed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    kl = comparison.kl.sort().values.clamp_min(_LEAST)
    more = 1 - torch.arange(len(kl)) / len(kl)
    axes.plot(kl.tolist(), more.tolist())
    marks = (
        ("median", comparison.kl_median),
        ("mean", comparison.kl_mean),
        ("99th percentile", comparison.kl_p99),
    )
    for place, (name, value) in enumerate(marks):
        axes.axvline(max(value, _LEAST), linestyle="--", color=f"C{place + 1}", label=f"{name} {value:.3g}")
    axes.set(
        xscale="log",
        title=f"{comparison.b.name} beside {comparison.a.name}",
        xlabel="divergence of the next token's distribution (nats)",
        ylabel="share of tokens that diverge more",
    )
    axes.legend()
    write_figure(figure, target)
