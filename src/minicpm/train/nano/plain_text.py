"""Generated text without control tokens, which any model can read: for calibration and comparisons."""

from __future__ import annotations

from minicpm.train.nano.corpus import CHAT, STABLE, shard
from minicpm.train.nano.sample import Sample

_TOGETHER = 200


def plain_texts(seed: int, characters: int) -> list[str]:
    """Documents and conversations of nano's generator, of so many characters in total or slightly more.

    The same arguments give the same texts; another seed gives others.
    """
    texts: list[str] = []
    left, index = characters, 0
    while left > 0:
        samples = shard(seed, index, (STABLE, CHAT)[index % 2], size=_TOGETHER)
        for text in map(_plain, samples):
            if left > 0:
                texts.append(text)
                left -= len(text)
        index += 1
    return texts


def _plain(sample: Sample) -> str:
    return "".join(part.text for part in sample.parts if not part.control).strip()
