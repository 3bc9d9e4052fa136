"""A cache of its own for every test, and llama.cpp where an interpreter has it."""

import base64
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
INTERPRETER = "MINICPM_LLAMA_PYTHON"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Every test gets an empty cache."""
    monkeypatch.setenv("MINICPM_HOME", str(tmp_path / "cache"))


class Llama:
    """llama.cpp through llama-cpp-python, in a process of its own."""

    def __init__(self, interpreter: str) -> None:
        self._interpreter = interpreter

    def logits(self, model: Path, ids: Sequence[int], lora: Path | None = None) -> torch.Tensor:
        """[T, V] float32, everything in float32 and on one thread."""
        more = [] if lora is None else [str(lora)]
        out = self._run("llama_logits.py", str(model), ",".join(map(str, ids)), *more)
        return torch.frombuffer(bytearray(base64.b64decode(out)), dtype=torch.float32).view(len(ids), -1)

    def tokens(self, model: Path, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without BOS and without control tokens."""
        return json.loads(self._run("llama_tokens.py", str(model), stdin=json.dumps(texts)))

    def _run(self, script: str, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [self._interpreter, str(HERE / script), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            # What tests import must not come in the way of another interpreter.
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().splitlines()[-1]


@pytest.fixture
def llama() -> Llama:
    """llama.cpp, or a skip that says how to have it."""
    named = os.environ.get(INTERPRETER)
    if named:
        return Llama(named)
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip(
            f"needs llama.cpp: install llama-cpp-python here, or set {INTERPRETER} to an interpreter with it"
        )
    return Llama(sys.executable)
