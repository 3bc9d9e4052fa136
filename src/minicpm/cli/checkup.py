"""Looks at the machine and the installation, one finding per subject, each with what to do about it."""

import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minicpm.errors import MiniCPMError

_LITTLE_MEMORY = 2 << 30
_LITTLE_DISK = 5 << 30
_OTHER_HOME = "Set MINICPM_HOME to a folder that can be written."


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found; `advice` says what to do, and there is one exactly when something is wrong."""

    subject: str
    found: str
    advice: str | None = None

    @property
    def ok(self) -> bool:
        """True when nothing needs to be done."""
        return self.advice is None


def check_all() -> Iterator[Finding]:
    """Every finding, quick ones first; asks no network."""
    from minicpm import __version__

    yield Finding("minicpm", f"{__version__} in {Path(__file__).parents[1]}")
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield _terminal()
    yield _memory()
    yield from _cache()
    yield _hub()
    yield from _models()
    yield from _torch()
    yield _native()
    yield from _extras()


def _terminal() -> Finding:
    encoding = sys.stdout.encoding or "unknown"
    shape = "not a terminal"
    if sys.stdout.isatty():
        size = os.get_terminal_size()
        shape = f"{size.columns} x {size.lines}, {os.environ.get('TERM', 'no TERM')}"
    narrow = encoding.lower().replace("-", "") != "utf8"
    advice = "Chinese and emoji cannot be shown. Set LANG=C.UTF-8, or PYTHONUTF8=1." if narrow else None
    return Finding("terminal", f"{encoding}, {shape}", advice)


def _memory() -> Finding:
    from minicpm.checkpoint.available import memory_limits, tightest
    from minicpm.cli.units import size

    limit = tightest(memory_limits())
    if limit is None:
        return Finding("memory", "this system does not say how much is free")
    found = f"{size(limit.free_bytes)} free, bounded by {limit.name}"
    few = limit.free_bytes < _LITTLE_MEMORY
    return Finding("memory", found, "Close other programs, or choose a small model." if few else None)


def _cache() -> Iterator[Finding]:
    from minicpm.checkpoint import list_models
    from minicpm.checkpoint.disk import free_bytes
    from minicpm.checkpoint.hub.home import cache_home
    from minicpm.cli.units import size

    try:
        home = cache_home()
        held = sum(model.bytes for model in list_models())
    except (MiniCPMError, OSError) as error:
        yield Finding("cache", str(error), _OTHER_HOME)
        return
    free = free_bytes(home)
    found = f"{home} holds {size(held)}; {size(free)} free on its disk"
    if not _can_write(home):
        yield Finding("cache", f"{found}; it cannot be written", _OTHER_HOME)
    else:
        advice = "Free some room; `minicpm list` and `minicpm rm` help."
        yield Finding("cache", found, advice if free < _LITTLE_DISK else None)


def _can_write(folder: Path) -> bool:
    """Whether files can be made there, in the folder or in the nearest parent that exists."""
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _hub() -> Finding:
    from minicpm.checkpoint.hub.huggingface import endpoint_from_environment
    from minicpm.checkpoint.hub.pull import is_switched_off

    try:
        endpoint = endpoint_from_environment()
    except MiniCPMError as error:
        return Finding("hub", str(error), "Unset HF_ENDPOINT, or correct it.")
    token = "with a token" if os.environ.get("HF_TOKEN") else "without a token"
    if is_switched_off():
        found = f"{endpoint}, {token}; HF_HUB_OFFLINE switches it off"
        return Finding("hub", found, "Unset HF_HUB_OFFLINE to pull models.")
    return Finding("hub", f"{endpoint}, {token}")


def _models() -> Iterator[Finding]:
    """The packaged model and every pulled one: complete, and nothing in its files that would stop a load."""
    from minicpm.checkpoint import list_models, resolve

    try:
        yield _model("nano", resolve("nano"))
    except MiniCPMError as error:
        yield Finding("nano", str(error), "Install the package again.")
    try:
        pulled = list_models()
    except (MiniCPMError, OSError):
        return  # the cache has a finding of its own
    for model in pulled:
        if model.complete:
            yield _model(model.name, model.path)
        else:
            yield Finding(model.name, "a part of it was fetched", f"`minicpm pull {model.name}` continues.")


def _model(name: str, folder: Path) -> Finding:
    from minicpm.checkpoint import open_checkpoint
    from minicpm.cli.units import size
    from minicpm.models.registry import parse

    try:
        checkpoint = open_checkpoint(folder)
        config = parse(checkpoint.raw_config)
    except (MiniCPMError, OSError) as error:
        return Finding(name, str(error), f"Fetch it again: `minicpm rm {name}`, then `minicpm pull {name}`.")
    weights = f"{size(checkpoint.total_bytes)} in {len(checkpoint.tensors)} tensors"
    return Finding(name, f"{config.family}, {weights}")


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        advice = "Install it again: pip install --force-reinstall torch."
        yield Finding("torch", f"does not load: {error}", advice)
        return
    cores = os.cpu_count() or 1
    threads = torch.get_num_threads()
    few = threads < cores // 2
    yield Finding("torch", torch.__version__)
    yield Finding(
        "threads",
        f"{threads} of {cores} cores",
        "Unset OMP_NUM_THREADS, unless it is small on purpose." if few else None,
    )
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Finding("gpu", ", ".join(names) if names else "none; models run on the processor")


def _native() -> Finding:
    from minicpm.ops.native import ISA_VARIABLE, absence, build, instruction_set

    reason = absence()
    if reason is None:
        try:
            return Finding("native", f"{build()}, with {instruction_set()}")
        except MiniCPMError as error:
            return Finding("native", str(error), f"Unset {ISA_VARIABLE}.")
    return Finding("native", reason, "Install a C++ compiler and CMake, then install the package again.")


def _extras() -> Iterator[Finding]:
    """Optional parts; their absence is no fault."""
    from importlib.util import find_spec

    parts = {"plot": "matplotlib", "ms": "modelscope_hub", "vision": "PIL"}
    there = [name for name, module in parts.items() if find_spec(module) is not None]
    absent = [f"minicpm[{name}]" for name in parts if name not in there]
    more = f"; {', '.join(absent)} can be added" if absent else ""
    yield Finding("extras", (", ".join(there) or "none") + more)
