"""What a hub says about a repository at one commit, and which of its files a model needs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minicpm.checkpoint.files import is_bare_name, listed
from minicpm.checkpoint.folder import COMPANIONS, CONFIG
from minicpm.checkpoint.hub.manifest import git_blob_of, sha256_of
from minicpm.checkpoint.hub.names import HubName
from minicpm.checkpoint.shards import INDEX
from minicpm.errors import NotOnHub, UnsafeFormat

BIN_INDEX = "pytorch_model.bin.index.json"
_ADAPTER = frozenset({"adapter_config.json", "adapter_model.safetensors"})
_WANTED = frozenset(
    {
        CONFIG,
        *COMPANIONS,
        INDEX,
        "README.md",
        "preprocessor_config.json",
        "processor_config.json",
        "quantize_config.json",
    }
)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file on a hub: its size in bytes, at least one checksum, and where to get it."""

    name: str
    size: int
    url: str
    sha256: str | None = None
    git_blob: str | None = None

    def matches(self, path: Path) -> bool:
        """True when the content of `path` has the size and the checksum that the hub announced."""
        if path.stat().st_size != self.size:
            return False
        if self.sha256 is not None:
            return sha256_of(path) == self.sha256
        return git_blob_of(path) == self.git_blob


@dataclass(frozen=True, slots=True)
class Listing:
    """A repository at one commit; `headers` go with every request for its files."""

    name: HubName
    endpoint: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def choose_files(name: HubName, available: Sequence[str], *, allow_bin: bool = False) -> list[str]:
    """The files of a repository that a model or an adapter needs, sorted; never Python code.

    Weights are safetensors. Pickle files are taken only with `allow_bin`, for `minicpm convert`, and only
    when there are no safetensors. Raises UnsafeFormat or NotOnHub when nothing usable is there.
    """
    names = [n for n in available if is_bare_name(n)]
    if CONFIG not in names and _ADAPTER.issubset(names):
        return sorted(_ADAPTER.union(n for n in names if n in _WANTED))
    weights = _safetensors(names)
    pickles = [n for n in names if n.startswith("pytorch_model") and n.endswith(".bin")]
    if not weights and pickles and not allow_bin:
        raise UnsafeFormat(
            f"{name} has its weights only as {listed(pickles, 3)}, files that can run code when opened. "
            f"Fetch them with `minicpm pull {name} --bin`, then make them safe with `minicpm convert`."
        )
    if not weights and pickles:
        weights = [*pickles, *(n for n in names if n == BIN_INDEX)]
    if not weights or CONFIG not in names:
        raise _not_a_model(name, names)
    return sorted({*weights, *(n for n in names if n in _WANTED)})


def _safetensors(names: Iterable[str]) -> list[str]:
    every = [n for n in names if n.endswith(".safetensors")]
    return [n for n in every if n.startswith("model")] or every


def _not_a_model(name: HubName, names: Sequence[str]) -> NotOnHub:
    return NotOnHub(
        f"{name} exists, but it has no config.json with safetensors weights beside it. Its files: "
        f"{listed(sorted(names))}. Name a repository that holds a model in the Hugging Face layout; `minicpm "
        "models` lists some."
    )
