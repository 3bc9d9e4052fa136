"""On a disk that is really full, pulling, saving and converting end in DiskFull and leave nothing corrupt."""

import pytest

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
def test_a_full_disk_is_a_typed_error_and_leaves_nothing(tiny, tmp_path, on_small_disk, look_ahead):
    import torch

    from minicpm.checkpoint import open_checkpoint

    legacy = tmp_path / "legacy"
    legacy.mkdir()
    opened = open_checkpoint(tiny)
    torch.save({name: opened.read(name) for name in opened.tensors}, legacy / "pytorch_model.bin")
    (legacy / "config.json").write_bytes((tiny / "config.json").read_bytes())
    done = on_small_disk(MOUNTED, 128, str(tiny), str(legacy), look_ahead)
    assert "all refused" in done.stdout, done.stdout + done.stderr
