"""Examines a freshly trained nano and writes its card."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from minicpm.cli.failures import stage

if TYPE_CHECKING:
    from minicpm.train.nano.recipe import Recipe

_PAGES = 2048
"""Room for a group of long exam prompts at once: 131,072 tokens, 96 MiB."""


def examine_nano(folder: Path, *, log: Path, recipe: "Recipe", public: bool, questions: int) -> Path:
    """Asks every exam's questions, printing each mark to standard error, and returns the card written.

    `public` tells that public texts were mixed into the corpus.
    """
    from minicpm.engine.api import load
    from minicpm.train.nano.card import totals, write_card
    from minicpm.train.nano.score import TARGETS, examine

    marks = []
    with stage(f"Stopped during the exams; the model in {folder} is complete, its card is not written."):
        model = load(folder, pages=_PAGES)
        for mark in examine(model.chat_model, count=questions):
            marks.append(mark)
            aim = f"aim {TARGETS[mark.exam]:.0%}"
            print(f"{mark.exam}: {mark.right} of {mark.total} right ({aim})", file=sys.stderr, flush=True)
    return write_card(
        folder,
        config=model.config,
        recipe=recipe,
        run=totals(log),
        marks=marks,
        public=public,
    )
