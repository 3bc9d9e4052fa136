"""Converts legacy pytorch_model*.bin files to safetensors; they are opened in a child process only."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minicpm.checkpoint.atomic import check_target, new_folder
from minicpm.checkpoint.disk import require_room, writing
from minicpm.checkpoint.files import file_names, inside, listed, refuse_pointers, require_folder, shown
from minicpm.checkpoint.folder import COMPANIONS, CONFIG, open_checkpoint
from minicpm.checkpoint.header import read_header
from minicpm.checkpoint.hub.listing import BIN_INDEX
from minicpm.checkpoint.progress import Progress
from minicpm.checkpoint.shards import SINGLE, shard_files, weight_map
from minicpm.errors import MalformedFile, NotACheckpoint, UnsafeFormat

_SINGLE_BIN = "pytorch_model.bin"
_ADAPTER_CONFIG, _ADAPTER_BIN = "adapter_config.json", "adapter_model.bin"
_ADAPTER = "adapter_model.safetensors"
_CHILD = "minicpm.checkpoint.bins_child"
_LAST_WORDS = frozenset({"finished", "unsafe", "broken", "errno"})
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "OMP_NUM_THREADS")


def convert_bin(
    source: str | Path, target: str | Path, *, overwrite: bool = False, progress: Progress | None = None
) -> Path:
    """Write the model or the adapter in `source` as a safetensors folder `target`, and return it.

    The child reads with `weights_only=True`, without network, and may write only into the new folder. A file
    that holds anything but dense tensors raises UnsafeFormat; `target` then stays as it was.
    """
    source, target = require_folder(Path(source)).absolute(), Path(target).absolute()
    check_target(target, overwrite=overwrite)
    layout = _layout(source)
    bins = layout.bins
    refuse_pointers([*bins, *layout.small])
    total = sum(path.stat().st_size for path in bins)
    require_room(target.parent, total)
    with writing(target, needed=total), new_folder(target, overwrite=overwrite) as beside:
        jobs = [(str(b), str(beside / s)) for b, s in zip(bins, layout.shards, strict=True)]
        _run_child(jobs, beside, progress)
        _finish(beside, layout)
    return target


def rewrite_ids(source: Path, target: Path) -> None:
    """Write the token ids in a pickled list as the one tensor of a safetensors file, through the child.

    Raises UnsafeFormat when the file holds anything else.
    """
    _run_child([(str(source), str(target))], target.parent, None, content="ids")


@dataclass(frozen=True, slots=True)
class _Layout:
    """The files of a folder: pickles, what each becomes, small ones to copy, and how the result is read."""

    bins: list[Path]
    shards: list[str]
    small: list[Path]
    read_back: Callable[[Path], object]


def _layout(folder: Path) -> _Layout:
    adapter, config = inside(folder, _ADAPTER_BIN), inside(folder, _ADAPTER_CONFIG)
    if adapter is not None and config is not None:
        return _Layout([adapter], [_ADAPTER], [config], lambda made: read_header(made / _ADAPTER))
    bins = _bin_files(folder)
    small = [path for name in (CONFIG, *COMPANIONS) if (path := inside(folder, name)) is not None]
    return _Layout(bins, _shard_names(len(bins)), small, open_checkpoint)


def _bin_files(folder: Path) -> list[Path]:
    if inside(folder, CONFIG) is None:
        raise NotACheckpoint(f"{shown(str(folder))} has no {CONFIG}, so it is not a model folder.")
    single, index = inside(folder, _SINGLE_BIN), inside(folder, BIN_INDEX)
    if single is not None:
        return [single]
    if index is not None:
        return list(shard_files(folder, index, set(weight_map(index).values())).values())
    raise NotACheckpoint(
        f"{shown(str(folder))} has no {_SINGLE_BIN} and no {BIN_INDEX}, so there is nothing to convert. "
        f"Found: {listed(file_names(folder))}."
    )


def _shard_names(count: int) -> list[str]:
    if count == 1:
        return [SINGLE]
    return [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]


def _finish(folder: Path, layout: _Layout) -> None:
    """Add the index and the small files, and read the result back as any checkpoint."""
    from minicpm.checkpoint.saving import copy_files
    from minicpm.checkpoint.writing import write_index

    headers = {shard: read_header(folder / shard) for shard in layout.shards}
    if len(headers) > 1:
        total = sum(info.nbytes for header in headers.values() for info in header.values())
        write_index(folder, {name: shard for shard, header in headers.items() for name in header}, total)
    copy_files(layout.small, folder)
    layout.read_back(folder)


def _run_child(
    jobs: list[tuple[str, str]], folder: Path, progress: Progress | None, *, content: str = "weights"
) -> None:
    package_root = Path(__file__).resolve().parents[2]
    environment = {key: os.environ[key] for key in _KEPT_ENVIRONMENT if key in os.environ}
    with subprocess.Popen(
        [sys.executable, "-B", "-s", "-P", "-m", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**environment, "PYTHONPATH": str(package_root)},
        cwd=folder,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as child:
        try:
            last = _follow(child, {"jobs": jobs, "folder": str(folder), "content": content}, progress)
        finally:
            child.kill()
    _judge(last, child.returncode)


def _follow(
    child: "subprocess.Popen[str]", order: dict[str, Any], progress: Progress | None
) -> dict[str, Any]:
    """Give the child its order, pass its progress on, and return its last word."""
    assert child.stdin is not None
    assert child.stderr is not None
    child.stdin.write(json.dumps(order))
    child.stdin.close()
    last: dict[str, Any] = {}
    for message in _messages(child):
        last = message
        if "done" in message and progress is not None:
            progress(int(message["done"]), int(message["total"]), str(message["label"]))
    child.wait()
    return last if last.keys() & _LAST_WORDS else last | {"crash": child.stderr.read()}


def _messages(child: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("{"):
            yield json.loads(line)


def _judge(last: dict[str, Any], code: int) -> None:
    """Raise what the child's last word means; nothing when it finished."""
    if last.get("finished"):
        return
    if "errno" in last:
        raise OSError(last["errno"], os.strerror(last["errno"]), last["file"])
    if "unsafe" in last:
        raise UnsafeFormat(
            f"{shown(str(last['file']))} is not a file of plain tensors, so it is refused and nothing of it "
            f"was run: {shown(str(last['unsafe']))}. Take the weights from a repository that offers "
            "safetensors."
        )
    reason = (
        last.get("broken") or str(last.get("crash", "")).strip().rpartition("\n")[2] or f"exit code {code}"
    )
    raise MalformedFile(
        f"The conversion stopped at {shown(str(last.get('file') or last.get('label') or 'its start'))}: "
        f"{shown(str(reason))}. Nothing was written; fetch the file again."
    )
