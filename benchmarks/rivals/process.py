"""Our side of the conversation with a rival: its process, which sleeps between requests."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parent.parent
OURS = "minicpm"


@dataclass(frozen=True, slots=True)
class Program:
    """A rival: its worker's module, the packages that need to be there, and how they get there."""

    name: str
    module: str
    packages: tuple[str, ...]
    install: str


PROGRAMS = (
    Program(OURS, "rivals.ours", ("minicpm",), "pip install ."),
    Program(
        "llama.cpp",
        "rivals.llama_cpp",
        ("llama_cpp", "gguf"),
        'CMAKE_ARGS="-DGGML_NATIVE=ON -DCMAKE_BUILD_TYPE=Release" pip install llama-cpp-python gguf',
    ),
    Program(
        "openvino",
        "rivals.openvino",
        ("openvino", "optimum.intel", "nncf"),
        "in an environment with torch: pip install openvino nncf 'transformers<5.6' setuptools requests && "
        "pip install --no-deps optimum optimum-intel openvino-tokenizers (torchvision stays out)",
    ),
    Program("transformers", "rivals.transformers", ("transformers",), "pip install transformers"),
)


class Missing(Exception):
    """Raised for a program that is not installed; the message says how to install it."""


class Refused(Exception):
    """Raised when a rival does not do some work; the message says why."""


class Broken(Exception):
    """Raised when a rival failed; the message ends with what it printed last."""


class Worker:
    """A rival's process. It works only while `ask` waits for it."""

    def __init__(self, program: Program, python: str, *, threads: int, folder: Path) -> None:
        _require(program, python)
        self.name = program.name
        self._log_path = folder / f"{program.name}.log"
        self._log = self._log_path.open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [python, "-m", program.module, str(threads), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=_environment(threads),
        )

    def ask(self, work: str, **details: object) -> dict[str, Any]:
        """What the rival answers; raises Refused or Broken."""
        assert self._process.stdin, "it is a pipe"
        assert self._process.stdout, "it is a pipe"
        try:
            self._process.stdin.write(json.dumps({"work": work} | details) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Broken(self._last_words()) from None
        line = self._process.stdout.readline()
        if not line:
            raise Broken(self._last_words())
        answer = json.loads(line)
        if "unsupported" in answer:
            raise Refused(answer["unsupported"])
        if "error" in answer:
            raise Broken(f"{self.name} failed at {work}:\n{answer['error']}")
        return answer

    def close(self) -> None:
        """Let the process end."""
        assert self._process.stdin, "it is a pipe"
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._log.close()

    def _last_words(self) -> str:
        code = self._process.wait()
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        return f"{self.name} ended with code {code}:\n" + "\n".join(lines[-12:])


@contextmanager
def workers(
    pythons: dict[str, str], *, threads: int, folder: Path
) -> Iterator[tuple[dict[str, Worker], dict[str, str]]]:
    """Those that are installed, by name, and for each of the others how to install it."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Worker] = {}
    missing: dict[str, str] = {}
    try:
        for program in PROGRAMS:
            python = pythons.get(program.name) or sys.executable
            try:
                found[program.name] = Worker(program, python, threads=threads, folder=folder)
            except Missing as reason:
                missing[program.name] = str(reason)
        yield found, missing
    finally:
        for worker in found.values():
            worker.close()


def _require(program: Program, python: str) -> None:
    """Raises Missing without importing the packages themselves, which takes seconds."""
    code = f"from importlib.util import find_spec; assert all(find_spec(name) for name in {program.packages})"
    if subprocess.run([python, "-c", code], capture_output=True, check=False).returncode:
        raise Missing(f"not installed: {program.install}")


def _environment(threads: int) -> dict[str, str]:
    """For a worker: our modules, and as many threads as all have."""
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return dict(os.environ) | counts | offline | {"PYTHONPATH": str(BENCHMARKS)}
