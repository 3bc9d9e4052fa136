"""On a disk that is really full, pulling, saving and converting end in DiskFull and leave nothing corrupt."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[2] / "src"

MOUNTED = """
import sys
from pathlib import Path
from minicpm.checkpoint import convert_bin, disk, load, open_checkpoint, save
from minicpm.errors import DiskFull
small, tiny, legacy, look_ahead = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == "1"
if not look_ahead:
    disk.require_room = lambda *a, **k: None
    import minicpm.checkpoint.saving as saving, minicpm.checkpoint.bins as bins
    saving.require_room = bins.require_room = disk.require_room
for work in (
    lambda: save(load(open_checkpoint(tiny)), Path(small) / "saved", source=tiny),
    lambda: convert_bin(legacy, Path(small) / "converted"),
):
    try:
        work()
    except DiskFull as error:
        assert "bytes free" in str(error), error
    else:
        raise SystemExit("it fitted")
    assert list(Path(small).iterdir()) == [], list(Path(small).iterdir())
print("all refused")
"""


@pytest.mark.parametrize("look_ahead", ["1", "0"], ids=["seen beforehand", "met on the way"])
def test_a_full_disk_is_a_typed_error_and_leaves_nothing(tiny, tmp_path, look_ahead):
    import torch

    from minicpm.checkpoint import open_checkpoint

    small, legacy = tmp_path / "small", tmp_path / "legacy"
    small.mkdir()
    legacy.mkdir()
    opened = open_checkpoint(tiny)
    torch.save({name: opened.read(name) for name in opened.tensors}, legacy / "pytorch_model.bin")
    (legacy / "config.json").write_bytes((tiny / "config.json").read_bytes())
    script = 'mount -t tmpfs -o size=128k tmpfs "$1" || exit 77; shift; exec "$@"'
    command = [sys.executable, "-c", MOUNTED, str(small), str(tiny), str(legacy), look_ahead]
    try:
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, "sh", str(small), *command],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"},
        )
    except FileNotFoundError:
        pytest.skip("needs unshare from util-linux to mount a small tmpfs")
    if done.returncode == 77 or "unshare failed" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip("needs a system that lets users mount a tmpfs in a namespace")
    assert "all refused" in done.stdout, done.stdout + done.stderr
