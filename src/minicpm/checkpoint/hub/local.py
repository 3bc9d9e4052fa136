"""Lists and removes pulled models; needs neither network nor torch."""

from dataclasses import dataclass
from pathlib import Path

from minicpm.checkpoint.files import listed, shown
from minicpm.checkpoint.hub.home import lock_file, models_home, repo_folder, writing
from minicpm.checkpoint.hub.manifest import PACKED, read_manifest
from minicpm.checkpoint.hub.names import HubName, from_folder, parse_name
from minicpm.checkpoint.hub.pull import PARTIAL
from minicpm.checkpoint.hub.refs import read_refs
from minicpm.checkpoint.hub.trash import discard, empty_trash
from minicpm.checkpoint.lock import held
from minicpm.errors import BadInput, HubError


@dataclass(frozen=True, slots=True)
class LocalModel:
    """One commit of a pulled repository; `complete` is False for an interrupted or damaged pull."""

    name: str
    commit: str
    revisions: tuple[str, ...]
    path: Path
    bytes: int
    complete: bool


def list_models() -> list[LocalModel]:
    """Everything in the cache, sorted by name."""
    home = models_home()
    if not home.is_dir():
        return []
    folders = sorted(entry for entry in home.iterdir() if entry.is_dir())
    names = [(folder, from_folder(folder.name)) for folder in folders]
    return [model for folder, name in names if name is not None for model in _commits(name, folder)]


def _commits(name: HubName, folder: Path) -> list[LocalModel]:
    refs = read_refs(folder)
    commits = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    return [_describe(name, entry, refs) for entry in commits]


def _describe(name: HubName, path: Path, refs: dict[str, str]) -> LocalModel:
    commit = path.name.removesuffix(PARTIAL)
    manifest = None if path.name.endswith(PARTIAL) else read_manifest(path)
    return LocalModel(
        name=str(name),
        commit=commit,
        revisions=tuple(sorted(revision for revision, target in refs.items() if target == commit)),
        path=path,
        bytes=_bytes_under(path) if manifest is None else manifest.total_bytes + _made_bytes(path),
        complete=manifest is not None,
    )


def _made_bytes(folder: Path) -> int:
    """Bytes of what was made of the model and lies beside it."""
    return sum(entry.stat().st_size for entry in folder.glob(f"{PACKED}*"))


def _bytes_under(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in folder.iterdir() if entry.is_file())


def remove(name: str) -> int:
    """Remove every commit of a pulled model, complete or not; the bytes that were freed.

    Raises BadInput when it is not in the cache, HubError while another process pulls it. A process that
    already has the files open keeps them until it ends.
    """
    hub_name = parse_name(name)
    folder = repo_folder(hub_name)
    if not folder.is_dir():
        pulled = sorted({model.name for model in list_models()})
        raise BadInput(
            f"{shown(name)} is not in the cache, so there is nothing to remove. "
            + (f"Pulled models: {listed(pulled)}." if pulled else "The cache holds no models.")
        )
    with writing(folder):
        lock_file(hub_name).parent.mkdir(parents=True, exist_ok=True)
        with held(lock_file(hub_name), wait=False) as free:
            if not free:
                raise HubError(
                    f"{hub_name} is being pulled or removed by another process. Wait until that ends."
                )
            freed = sum(model.bytes for model in _commits(hub_name, folder)) if folder.is_dir() else 0
            discard(folder)
            empty_trash()
    return freed
