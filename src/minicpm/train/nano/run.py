"""Trains nano from nothing, or from where it was stopped, and exports a checkpoint."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from minicpm.errors import BadInput
from minicpm.models.decoder import Decoder
from minicpm.train.batches import TrainBatch
from minicpm.train.groups import initialise, optimizers
from minicpm.train.loop import Progress, train
from minicpm.train.nano.corpus.mixture import STABLE, shard
from minicpm.train.nano.data import Cursor, Stage, batches
from minicpm.train.nano.export import export
from minicpm.train.nano.model import config
from minicpm.train.nano.recipe import Recipe
from minicpm.train.nano.tokenizer import build_tokenizer, write
from minicpm.train.state import latest_state, load_state, save_state

_TOKENIZER_SHARDS = 10
_SAVE_EVERY = 100
Listener = Callable[[Progress, str], None]


@dataclass(slots=True)
class _Stream:
    """The batch stream across stages, and where it stands."""

    tokenizer: Tokenizer
    recipe: Recipe
    corpus: Path | None
    stage: str
    cursor: Cursor

    def from_step(self, step: int) -> Iterator[TrainBatch]:
        """One batch for every step from `step` on, from the mixture of its stage."""
        for end, stage in self.recipe.stages():
            if step >= end:
                continue
            self._enter(stage)
            source = batches(self.tokenizer, stage, self.cursor, seed=self.recipe.seed, corpus=self.corpus)
            for _ in range(step, end):
                yield next(source)
            step = end

    def _enter(self, stage: Stage) -> None:
        if self.stage != stage.name:
            self.stage, self.cursor = stage.name, Cursor()

    def position(self) -> dict[str, Any]:
        """What a resumed run needs to continue with the next batch, and to know that it is the same text."""
        return {"stage": self.stage, "shard": self.cursor.shard, "used": self.cursor.used} | self._text()

    def resume(self, where: Mapping[str, Any], state: Path) -> None:
        """Take up a saved position; raises BadInput when it belongs to other training text."""
        other = [
            f"{key} {where.get(key)!r}" for key, value in self._text().items() if where.get(key) != value
        ]
        if other:
            raise BadInput(
                f"The run kept in {state} was made with {' and '.join(other)}, now it is "
                f"{self._text()}. Its text would not go on where it stopped. Give the same, or a new folder."
            )
        self.stage, self.cursor = where["stage"], Cursor(where["shard"], where["used"])

    def _text(self) -> dict[str, Any]:
        return {"seed": self.recipe.seed, "corpus": self.corpus is not None}


def train_nano(
    work: Path, *, recipe: Recipe, corpus: Path | None = None, listen: Listener = lambda progress, stage: None
) -> Path:
    """Train in the folder `work` (states, log.jsonl, tokenizer) and return the exported checkpoint folder.

    A run that was stopped continues from its last state; the same recipe and seed give the same weights
    on the same kind of machine.
    """
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(work, recipe.seed, corpus)
    decoder = Decoder(config(tokenizer.get_vocab_size()))
    initialise(decoder, recipe.optimizer, seed=recipe.seed)
    steppers = optimizers(decoder, recipe.optimizer)
    start, stream = 0, _Stream(tokenizer, recipe, corpus, "", Cursor())
    if (state := latest_state(work)) is not None:
        start, where = load_state(state, decoder, steppers)
        stream.resume(where, state)
    log = work / "log.jsonl"
    for progress in train(decoder, steppers, recipe.schedule, stream.from_step(start), start=start):
        _log(log, progress, stream.stage)
        listen(progress, stream.stage)
        if progress.step % _SAVE_EVERY == 0 or progress.step == recipe.schedule.steps:
            save_state(work, progress.step, decoder, steppers, stream.position())
    return export(decoder, work / "export", tokenizer_folder=work / "tokenizer")


def _tokenizer(work: Path, seed: int, corpus: Path | None) -> Tokenizer:
    folder = work / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        samples = [
            sample for i in range(_TOKENIZER_SHARDS) for sample in shard(seed, i, STABLE, corpus=corpus)
        ]
        write(build_tokenizer(samples), folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def _log(path: Path, progress: Progress, stage: str) -> None:
    line = {
        "time": round(time.time(), 3),
        "step": progress.step,
        "stage": stage,
        "loss": round(progress.loss, 5),
        "tokens": progress.tokens,
        "learned": progress.learned,
        "gradient_norm": round(progress.gradient_norm, 4),
        "factor": round(progress.factor, 6),
        "seconds": round(progress.seconds, 4),
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
