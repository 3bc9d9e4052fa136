"""Runs the tests of the native kernels under the address and undefined-behaviour sanitizers of GCC.

    .venv/bin/python tools/sanitize.py [PYTEST ARGUMENT ...]

Builds into build/sanitize, compares the instruction sets with each other there, and then runs the tests that
are named, or all that call kernels. Needs the extras dev and native. As a plugin of pytest it puts the module
built there in the place of the installed one.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "sanitize"
MODULE = "minicpm.ops._native"
OPTIONS = ("-DCMAKE_BUILD_TYPE=Release", "-DMINICPM_SANITIZE=ON", "-DMINICPM_CHECK=ON")
TESTS = ("tests/ops/native", "tests/models/test_native_decoder.py", "tests/bench/test_limits.py")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Loads the module of build/sanitize before anything imports the installed one."""
    (path,) = BUILD.glob("_native*.so")
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[MODULE] = module


def build() -> None:
    """Builds the module and the program that compares instruction sets."""
    cmake = Path(sys.executable).with_name("cmake")
    python = f"-DPython_EXECUTABLE={sys.executable}"
    subprocess.run([cmake, "-S", ROOT / "native", "-B", BUILD, python, *OPTIONS], check=True)
    subprocess.run([cmake, "--build", BUILD], check=True)


def library(name: str) -> str:
    """Where the compiler has a library of its own."""
    command = [os.environ.get("CXX", "c++"), f"-print-file-name={name}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def watched() -> dict[str, str]:
    """The environment of a Python that ends at the first finding."""
    return os.environ | {
        # Python was not linked to the sanitizer, which has to come first and needs to find C++'s exceptions.
        "LD_PRELOAD": f"{library('libasan.so')} {library('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python leaves memory to the system
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT / "tools"),
    }


def main(arguments: list[str]) -> int:
    """0 where every test passed and nothing was found."""
    build()
    tests = [] if any((ROOT / argument.split("::")[0]).exists() for argument in arguments) else TESTS
    python = [sys.executable, "-m", "pytest", "-p", "sanitize", "--capture=no", *arguments, *tests]
    for command in ([BUILD / "check_kernels"], python):
        if code := subprocess.run(command, cwd=ROOT, env=watched(), check=False).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
