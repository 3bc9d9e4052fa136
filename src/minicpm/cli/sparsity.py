"""Measures how many neurons of a model a text leaves inactive."""

from pathlib import Path
from typing import Any


def measure(folder: Path, text: str) -> dict[str, Any]:
    """The share of exact zeros per layer, their mean, and how many tokens the text has; loads the model."""
    from minicpm.checkpoint import open_checkpoint
    from minicpm.checkpoint.loading import load_as
    from minicpm.cli.failures import stage
    from minicpm.cli.progress import spinner
    from minicpm.models.sparsity import activation_sparsity
    from minicpm.models.trunk import Trunk
    from minicpm.text.tokenizer import Tokenizer

    checkpoint = open_checkpoint(folder)
    ids = Tokenizer.from_folder(checkpoint.path).encode(text)
    with stage("Stopped; nothing was measured."), spinner(f"Reading {len(ids):,} tokens"):
        found = activation_sparsity(load_as(Trunk, checkpoint), ids)
    return {"layers": list(found.layers), "mean": found.mean, "tokens": found.tokens}


def lines(found: dict[str, Any]) -> list[str]:
    """One line per layer, then the mean."""
    from minicpm.cli.units import columns

    rows = [["layer", "inactive neurons"]]
    rows += [[str(layer), f"{share:.2%}"] for layer, share in enumerate(found["layers"])]
    rows += [["mean", f"{found['mean']:.2%} over {found['tokens']:,} tokens"]]
    return columns(rows)
