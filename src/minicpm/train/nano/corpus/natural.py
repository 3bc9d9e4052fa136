"""Everyday sentences from optional text files: translation pairs, greetings, and questions out of reach."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import NamedTuple

from minicpm.train.nano.corpus.chat import Exchange, talk
from minicpm.train.nano.corpus.heldout import held_out
from minicpm.train.nano.sample import Sample, document

EN_ASK = (
    "Translate into Chinese: {x}",
    "How do you say this in Chinese? {x}",
    "{x}\nTranslate this into Chinese.",
    "In Chinese: {x}",
)
ZH_ASK = ("翻译成英文：{x}", "这句话用英语怎么说？{x}", "{x}\n请翻译成英语。", "用英文说：{x}")


class Natural(NamedTuple):
    """What the text files hold, without the held-out tenth."""

    pairs: tuple[tuple[str, str], ...]
    open_questions: tuple[str, ...]


def _pairs(path: Path) -> tuple[tuple[str, str], ...]:
    if not path.is_file():
        return ()
    rows = (line.split("\t")[:2] for line in path.read_text(encoding="utf-8").splitlines())
    return tuple(
        (row[0].strip(), row[1].strip()) for row in rows if len(row) == 2 and max(map(len, row)) <= 60
    )


def _open_questions(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    rows = json.loads(path.read_text(encoding="utf-8"))["oos_train"]
    return tuple(sorted({text for text, _ in rows if not held_out(text)}))


@lru_cache(maxsize=2)
def load(folder: Path | None) -> Natural | None:
    """Read the known files of a corpus folder once; None without a folder."""
    if folder is None:
        return None
    pairs = tuple(pair for pair in _pairs(folder / "tatoeba_en_zh.tsv") if not held_out(pair[0]))
    return Natural(pairs, _open_questions(folder / "clinc_oos.json"))


def natural(rng: Random, source: Natural) -> Sample:
    """Plain sentences in a row, or a translation in a conversation."""
    if rng.random() < 0.6:
        lines = [rng.choice(source.pairs) for _ in range(rng.randint(3, 12))]
        style = rng.random()
        texts = [en if style < 0.45 else zh if style < 0.8 else f"{en} {zh}" for en, zh in lines]
        return document("natural", [("\n".join(texts) + "\n", True)])
    turns = []
    for _ in range(rng.randint(1, 3)):
        en, zh = rng.choice(source.pairs)
        if rng.random() < 0.5:
            turns.append(
                Exchange(rng.choice(EN_ASK).format(x=en), zh, "The user wants it in Chinese. I translate.")
            )
        else:
            turns.append(Exchange(rng.choice(ZH_ASK).format(x=zh), en, "用户要英文，我来翻译。"))
    return talk(rng, "natural", turns)
