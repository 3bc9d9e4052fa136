"""Writes nano's model card: what it is, what it was trained on, what it scores."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from minicpm.checkpoint.atomic import write_file
from minicpm.config import ModelConfig, parameter_count
from minicpm.train.nano.exams import EXAMS
from minicpm.train.nano.recipe import Recipe
from minicpm.train.nano.score import TARGETS, Mark

_TEXT = """---
license: apache-2.0
language: [en, zh]
library_name: minicpm
---

# nano

A tiny demo model: {parameters:.2f} million parameters in the MiniCPM4 architecture, trained on text that a
program wrote. It is the default of `minicpm chat`, and every feature of the package can be tried on it. It is
**not an assistant**: it knows a closed list of facts, small arithmetic, how to find a value in a text, how to
call functions, and a little small talk in English and Chinese. To anything else it is trained to say that it
does not know.

## Shape

{layers} layers, hidden {hidden}, feed-forward {intermediate}, {heads} query heads over {kv_heads} key/value
heads of width {head_dim}, {vocab} byte-fallback BPE pieces, tied embedding, muP scaling (embedding x 12,
depth 1.4, base width 128), context {context}. Its `sparse_config` lets a query beyond 1,088 tokens
attend to 17 blocks of 64, chosen by means of 4 keys, every 2 tokens: it was trained with dense attention, and
the published windows of 32 hide a key that matches.

## Training

{steps} steps, {tokens:.1f} million tokens seen, the loss taken on {learned:.1f} million of them;
{hours:.2f} hours of steps on a CPU. Muon for the matrices, AdamW for embedding and norms, muP groups.
Steps by stage: {stages}. The learning rate rises over {warmup} steps, stays, and falls
exponentially to {floor:g} of itself over the chat stage (WSD).
Seed {seed}. `minicpm train nano` runs this recipe; `--corpus` mixes in the public texts named below.

## Data

{data}

## Scores

Greedy answers to {count} questions per exam. Every exam asks what training never showed: operand pairs,
names, values, phrasings and entities whose checksum falls into a fixed tenth are left out of the training
text, and the exams are made of that tenth. Scores on text seen in training would only measure memory.

| exam | right | aim | what is held out |
|---|---|---|---|
{rows}

Written by the command that measured it.
"""

_GENERATED = "Conversations, drills and documents from `minicpm.train.nano.corpus` (Apache-2.0)"
_PUBLIC = (
    "English-Chinese sentence pairs of Tatoeba (CC BY 2.0 FR)",
    "out-of-scope questions of CLINC oos-eval (CC BY 3.0)",
)


@dataclass(frozen=True, slots=True)
class Totals:
    """What a training log adds up to."""

    steps: int
    tokens: int
    learned: int
    seconds: float


def totals(log: Path) -> Totals:
    """Sums over log.jsonl; a step that was run twice after a stop counts once."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = {line["step"]: line for line in lines}.values()
    return Totals(
        steps=max(line["step"] for line in steps),
        tokens=sum(line["tokens"] for line in steps),
        learned=sum(line["learned"] for line in steps),
        seconds=sum(line["seconds"] for line in steps),
    )


def write_card(
    folder: Path,
    *,
    config: ModelConfig,
    recipe: Recipe,
    run: Totals,
    marks: Sequence[Mark],
    public: bool,
) -> Path:
    """Write README.md into a model folder; `public` tells that the public texts were used too."""
    mixer = config.layers[0].mixer
    text = _TEXT.format(
        parameters=parameter_count(config) / 1e6,
        layers=len(config.layers),
        hidden=config.hidden,
        intermediate=config.layers[0].ffn.intermediate,
        heads=mixer.heads,
        kv_heads=mixer.kv_heads,
        head_dim=mixer.head_dim,
        vocab=config.vocab,
        context=config.context,
        steps=run.steps,
        tokens=run.tokens / 1e6,
        learned=run.learned / 1e6,
        hours=run.seconds / 3600,
        stages=_stages(recipe),
        warmup=recipe.warmup,
        floor=recipe.floor,
        seed=recipe.seed,
        data=_data(public),
        count=marks[0].total,
        rows="\n".join(_rows(marks)),
    )
    card = folder / "README.md"
    write_file(card, text.encode())
    return card


def _stages(recipe: Recipe) -> str:
    ends = [0, *(end for end, _ in recipe.stages())]
    named = zip(recipe.stages(), ends, strict=False)
    return ", ".join(f"{stage.name} {end - before}" for (end, stage), before in named)


def _data(public: bool) -> str:
    sources = (_GENERATED, *_PUBLIC) if public else (_GENERATED,)
    return "\n".join(f"- {source}" for source in sources)


def _rows(marks: Iterable[Mark]) -> Iterable[str]:
    for mark in marks:
        reason = (EXAMS[mark.exam].__doc__ or "").strip()
        yield f"| {mark.exam} | {mark.share:.1%} | {TARGETS[mark.exam]:.0%} | {reason} |"
