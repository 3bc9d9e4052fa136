"""Writes the texts that the package quantizes and compares models with, when no others are given.

They come from the generator of nano's training text, so nobody else's words are in them.
Run: python tools/calibration_text.py
"""

import json
from pathlib import Path

from minicpm.train.nano.plain_text import plain_texts

FOLDER = Path(__file__).resolve().parents[1] / "src" / "minicpm" / "assets" / "calibration"
# Seeds that no training run of nano has used; name, seed and characters of each file.
FILES = (("calibration.jsonl", 7_001, 150_000), ("heldout.jsonl", 7_002, 40_000))


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, seed, characters in FILES:
        lines = [json.dumps({"text": text}, ensure_ascii=False) for text in plain_texts(seed, characters)]
        (FOLDER / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
