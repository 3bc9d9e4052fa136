"""Keeps packed weights as the kernels want them, in one file per model and way to hold weights."""

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import nn

from minicpm._version import __version__
from minicpm.checkpoint import disk
from minicpm.checkpoint.folder import Checkpoint
from minicpm.checkpoint.hub.home import cache_home, models_home
from minicpm.checkpoint.hub.manifest import PACKED, FileRecord, read_manifest
from minicpm.checkpoint.hub.trash import discard
from minicpm.checkpoint.packed_file import PackedFile, Piece, Unusable, size_of, write
from minicpm.checkpoint.packed_parts import pieces_of, restore, weights_in
from minicpm.checkpoint.plan import MemoryPlan
from minicpm.checkpoint.sources import Stamps, are_those, records_of, stamps_of, write_note
from minicpm.config import BYTES, ModelConfig, parameter_count
from minicpm.config.holding import absorbed_bytes
from minicpm.errors import BadParameter, CacheNotWritable
from minicpm.ops.native.matrix import LAYOUT
from minicpm.ops.native.runtime import Runtime

SWITCH = "MINICPM_PACKED_CACHE"
"""The environment variable that turns the cache off when it is 0."""
WORTH_BYTES = 32 << 20
"""Less than this is packed again in a moment, and not kept."""
_READING_BYTES = 8 << 20  # seen beside the weights, mostly for code
_FORMAT = 2  # of the header, and of what is joined with what
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PackedCache:
    """Where the packed weights of a checkpoint are kept, and what its files were like when loading began."""

    checkpoint: Checkpoint
    weights: str
    path: Path
    stamps: Stamps

    def open(self) -> PackedFile | None:
        """The file, if there is one and it was made of this checkpoint by this version."""
        if not self.path.exists():
            return None
        try:
            file = PackedFile(self.path)
            self._check(file.made_of)
        except Unusable as error:
            self._refuse(error)
            return None
        return file

    def restore(self, model: nn.Module, file: PackedFile, runtime: Runtime) -> bool:
        """Give a model on the meta device what a file holds; False when it is damaged or of another model.

        Then the model is as it was, and the runtime holds memory in vain.
        """
        try:
            restore(model, file, runtime)
        except Unusable as error:
            self._refuse(error)
            return False
        return True

    def keep(self, model: nn.Module) -> bool:
        """Write the packed weights of a prepared model; False, and nothing left behind, if refused."""
        pieces = pieces_of(model)
        if sum(piece.nbytes for piece in pieces) < WORTH_BYTES:
            return False
        try:
            return self._write(pieces)
        except OSError as error:
            _LOG.info("Packed weights are not kept in %s: %s.", self.path, error)
            return False

    def _write(self, pieces: list[Piece]) -> bool:
        needed, free = size_of(pieces), disk.free_bytes(self.path.parent)
        if 2 * needed > free:  # a cache that fills the disk is worse than none
            _LOG.info("Packed weights are not kept: %d bytes are needed and %d free.", needed, free)
            return False
        records = records_of(self.checkpoint.path, self.checkpoint.files)
        if stamps_of(self.checkpoint.files) != self.stamps:  # changed since they were read
            return False
        _forget_gone()
        write(self.path, self._made_of(records), pieces)
        write_note(self._note, self.stamps, records)
        return True

    def _made_of(self, records: Mapping[str, FileRecord]) -> dict[str, Any]:
        sources = {name: asdict(record) for name, record in records.items()}
        return {**self._made_by(), "folder": str(self.checkpoint.path), "sources": sources}

    def _made_by(self) -> dict[str, Any]:
        return {"format": _FORMAT, "layout": LAYOUT, "version": __version__, "weights": self.weights}

    def _check(self, made_of: Mapping[str, Any]) -> None:
        for key, value in self._made_by().items():
            if made_of.get(key) != value:
                raise Unusable(f"it was made with {key} {made_of.get(key)}, not {value}")
        records = {name: FileRecord(**record) for name, record in made_of["sources"].items()}
        if not are_those(self.checkpoint.files, records, self._note):
            raise Unusable("it was made of other weights")

    @property
    def _note(self) -> Path:
        return self.path.with_suffix(".stamps")

    def _refuse(self, why: Unusable) -> None:
        _LOG.info("The packed weights in %s are not used, and made again: %s.", self.path, why)


def kept_plan(plan: MemoryPlan, config: ModelConfig, file: PackedFile, dtype: str) -> MemoryPlan:
    """The plan when weights are held as they are in a file, and read straight to where they stay."""
    plain = parameter_count(config) - weights_in(file)
    held = file.data_bytes + plain * BYTES[dtype] + absorbed_bytes(config, dtype)
    return replace(plan, weight_bytes=held, scratch_bytes=_READING_BYTES)


def packed_cache(checkpoint: Checkpoint, weights: str) -> PackedCache | None:
    """The cache for a checkpoint whose weights are held this way; None when it is off or has no place.

    Raises BadParameter for a switch that is neither 0 nor 1.
    """
    if not _is_on():
        return None
    try:
        return PackedCache(checkpoint, weights, _place(checkpoint.path, weights), stamps_of(checkpoint.files))
    except (CacheNotWritable, OSError) as error:
        _LOG.info("Packed weights are not kept: %s", error)
        return None


def _is_on() -> bool:
    value = os.environ.get(SWITCH, "1")
    if value not in ("0", "1"):
        raise BadParameter(f"{SWITCH} is {value!r}. Set it to 0 to keep no packed weights, or unset it.")
    return value == "1"


def _place(folder: Path, weights: str) -> Path:
    """Within a pulled model's own folder, so that it goes with it; else among those of other folders."""
    real = folder.resolve()
    if real.parent.parent == models_home().resolve() and read_manifest(real) is not None:
        return real / f"{PACKED}{weights}.bin"
    key = sha256(os.fsencode(real)).hexdigest()[:32]
    return _home() / key / f"{weights}.bin"


def _home() -> Path:
    return cache_home() / "packed"


def _forget_gone() -> None:
    """Remove what was made of folders that are no longer there; nobody else would."""
    for path in _home().glob("*/*.bin"):
        try:
            gone = not Path(PackedFile(path).made_of["folder"]).is_dir()
        except (Unusable, KeyError):
            continue
        if gone:
            discard(path.parent)
