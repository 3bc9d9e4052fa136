"""Says how much memory this process may still take, from the kernel's own files."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound on memory: where it comes from, and the bytes it leaves free."""

    name: str
    free_bytes: int


def memory_limits(root: Path = _ROOT) -> list[Limit]:
    """Every bound that applies; `root` stands for / in tests. Empty where the system tells nothing."""
    found = [_machine(root), *_cgroups(root), _address_space(root)]
    return [limit for limit in found if limit is not None]


def tightest(limits: list[Limit]) -> Limit | None:
    """The bound with the fewest free bytes."""
    return min(limits, key=lambda limit: limit.free_bytes, default=None)


def _machine(root: Path) -> Limit | None:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return Limit("the machine's available memory", int(line.split()[1]) * 1024)
    return None


def _cgroups(root: Path) -> Iterator[Limit]:
    """Memory limits of this process's control groups, version 2 and 1, and of their parents."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _ladder(root / "sys/fs/cgroup", path, _V2)
        elif "memory" in controllers.split(","):
            yield from _ladder(root / "sys/fs/cgroup/memory", path, _V1)


_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
# Version 1 writes "no limit" as a number near 2^63.
_UNLIMITED = 1 << 60


def _ladder(mount: Path, path: str, names: tuple[str, str, str]) -> Iterator[Limit]:
    group = mount / path.lstrip("/")
    while group.is_relative_to(mount):
        limit = _group(group, names)
        if limit is not None:
            yield limit
        group = group.parent


def _group(group: Path, names: tuple[str, str, str]) -> Limit | None:
    most, used = _number(group / names[0]), _number(group / names[1])
    if most is None or used is None or most >= _UNLIMITED:
        return None
    statistics = dict(line.split() for line in _lines(group / "memory.stat"))
    # Cached file pages count as used, and the kernel drops them when memory is asked for.
    reclaimable = int(statistics.get(names[2], 0))
    return Limit("the control group's memory limit", max(most - used + reclaimable, 0))


def _address_space(root: Path) -> Limit | None:
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    statm = _lines(root / "proc/self/statm")
    if soft == resource.RLIM_INFINITY or not statm:
        return None
    used = int(statm[0].split()[0]) * resource.getpagesize()
    return Limit("the address space limit (ulimit -v)", max(soft - used, 0))


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    """Lines of a kernel file; none where it is absent or hidden."""
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
