"""Gives every test a terminal's signals and no cache of packed weights, and to some a full disk."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"

# A shell starts background jobs with Ctrl-C ignored, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests of the cache of packed weights turn it on, with a place of their own.
os.environ["MINICPM_PACKED_CACHE"] = "0"


@pytest.fixture
def tricky_texts() -> list[str]:
    """Texts on which tokenizers that are nearly the same differ."""
    return [
        "Hello world", "  two  spaces ", " a", "a ", "  ", "", "\n", "tab\tnew\nline\r\n", "你好，世界！",
        "<|im_end|>", "<s></s>", "<unk>", "<0x41>", "<用户>hi<AI>", "\u2581x\u2581", "e\u0301 ﷺ 𠮷",
        "🙂🙃👩‍👩‍👧", "a" * 50, "1234567890", "\x00\x01", "don't I'LL", "def f(x):\n    return x\n",
    ]  # fmt: skip


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs a script whose first argument is a folder on a disk of so many KiB; skips where there is none."""
    small = tmp_path / "small"
    small.mkdir()

    def run(script: str, kib: int, *arguments: str, home: bool = False) -> "subprocess.CompletedProcess[str]":
        """`home` puts the cache there as well."""
        mount = f'mount -t tmpfs -o size={kib}k tmpfs "$1" || exit 77; shift; exec "$@"'
        command = [sys.executable, "-c", script, str(small), *arguments]
        own = {"MINICPM_HOME": str(small)} if home else {}
        try:
            done = subprocess.run(
                ["unshare", "-rm", "sh", "-c", mount, "sh", str(small), *command],
                capture_output=True,
                text=True,
                check=False,
                env=os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"} | own,
            )
        except FileNotFoundError:
            pytest.skip("needs unshare from util-linux to mount a small tmpfs")
        refused = "unshare failed" in done.stderr or "Operation not permitted" in done.stderr
        if done.returncode == 77 or refused:
            pytest.skip("needs a system that lets users mount a tmpfs in a namespace")
        return done

    return run
