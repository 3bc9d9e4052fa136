"""Opens a draft for a decoder: everything is checked first, then the weights stream in."""

from dataclasses import replace
from pathlib import Path

import torch

from minicpm.checkpoint.building import allocate, on_meta
from minicpm.checkpoint.files import listed, shown
from minicpm.checkpoint.filling import fill
from minicpm.checkpoint.folder import Checkpoint, open_checkpoint
from minicpm.checkpoint.matching import differences
from minicpm.checkpoint.progress import Progress
from minicpm.checkpoint.ranked_ids import read_ids
from minicpm.checkpoint.resolving import resolve
from minicpm.config import dtype_name
from minicpm.errors import BadParameter, UnknownFormat, UnknownModel, WeightMismatch
from minicpm.models.decoder import Decoder
from minicpm.models.drafts.config import parse_eagle2, parse_eagle3
from minicpm.models.drafts.draft import Draft
from minicpm.models.drafts.eagle2 import Eagle2
from minicpm.models.drafts.eagle3 import Eagle3
from minicpm.models.drafts.packaging import EAGLE2, PACKAGINGS, Packaging, recognised
from minicpm.models.drafts.vocabulary import Vocabulary

_OFFSETS = "d2t"
_BIAS = "fc.bias"


def load_draft(
    path_or_name: str | Path,
    target: Decoder,
    *,
    vocabulary: str | Path | None = None,
    residual_scale: float | None = None,
    tap_scale: float | None = None,
    dtype: str | torch.dtype = "auto",
    backend: str = "auto",
    prepare: bool = True,
    progress: Progress | None = None,
) -> Draft:
    """The draft in a folder or of a hub name, for `target`, in its dtype unless said and on its device.

    `vocabulary` is a file of frequent token ids that an EAGLE-2 draft then guesses from (FR-Spec): a .json
    list, a .safetensors tensor or a .pt list. `residual_scale` and `tap_scale` replace those of the config.
    Raises UnknownModel for an unknown packaging, BadConfig, UnreadConfig, WeightMismatch with every tensor
    that does not fit, BadParameter for a vocabulary that cannot be used, NotFinite.
    """
    checkpoint = open_checkpoint(resolve(str(path_or_name)))
    _refuse_codes(checkpoint)
    packaging = _packaging(checkpoint)
    draft = on_meta(lambda: _build(packaging, checkpoint, target, residual_scale, tap_scale))
    _check(draft, packaging, checkpoint)
    words = _vocabulary(draft, checkpoint, vocabulary)
    name = str(target.dtype) if str(dtype) == "auto" else str(dtype)
    allocate(draft, getattr(torch, dtype_name(name)), target.device)
    fill(draft, _renamed(draft, packaging, checkpoint), progress=progress)
    if words is not None:
        _restrict(draft, words)
    if prepare:
        draft.prepare(backend)
    return draft.eval() if prepare else draft


def _refuse_codes(checkpoint: Checkpoint) -> None:
    if checkpoint.packed:
        formats = sorted({source.format for source in checkpoint.packed.values()})
        raise UnknownFormat(
            f"{shown(str(checkpoint.path))} holds a draft whose matrices are in codes "
            f"({', '.join(formats)}), and drafts are read plain only. Take the unquantized draft."
        )


def _packaging(checkpoint: Checkpoint) -> Packaging:
    found = recognised(checkpoint.tensors)
    if found is None:
        known = "; ".join(f"{p.title} ({p.mark}*)" for p in PACKAGINGS)
        raise UnknownModel(
            f"{shown(str(checkpoint.path))} holds no draft that is known here. Known packagings and their "
            f"marks: {known}. Its tensors: {listed(sorted(checkpoint.tensors), 8)}. Give the folder of a "
            "draft."
        )
    return found


def _build(
    packaging: Packaging,
    checkpoint: Checkpoint,
    target: Decoder,
    residual_scale: float | None,
    tap_scale: float | None,
) -> Draft:
    raw, config = checkpoint.raw_config, target.config
    if packaging.kind == EAGLE2:
        if tap_scale is not None:
            raise BadParameter("tap_scale is for EAGLE-3 drafts, and this one is EAGLE-2. Leave it out.")
        own = parse_eagle2(raw, config, residual_scale=residual_scale)
        return Eagle2(own, target, bias=packaging.published(_BIAS) in checkpoint.tensors)
    return Eagle3(parse_eagle3(raw, config, residual_scale=residual_scale, tap_scale=tap_scale), target)


def _check(draft: Draft, packaging: Packaging, checkpoint: Checkpoint) -> None:
    needed: dict[str, tuple[int, ...]] = {
        packaging.published(name): tuple(p.shape) for name, p in draft.named_parameters()
    }
    if isinstance(draft, Eagle3) and _has_offsets(draft, checkpoint):
        needed[_OFFSETS] = (draft.lm_head.out_features,)
    present = {n: info for n, info in checkpoint.tensors.items() if n not in packaging.ignored}
    if problems := differences(needed, present, whole=packaging.whole):
        raise WeightMismatch(
            f"The tensors in {shown(str(checkpoint.path))} are not those of the draft its config.json "
            f"describes ({packaging.title}). {problems}. Nothing was loaded; fetch the draft again, or give "
            "the decoder it was made for."
        )


def _renamed(draft: Draft, packaging: Packaging, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the draft's own names."""
    names = [name for name, _ in draft.named_parameters()]
    return replace(checkpoint, tensors={n: checkpoint.tensors[packaging.published(n)] for n in names})


def _vocabulary(draft: Draft, checkpoint: Checkpoint, path: str | Path | None) -> Vocabulary | None:
    size, ends = draft.config.vocab, draft.config.eos
    if isinstance(draft, Eagle3):
        if path is not None:
            raise BadParameter("An EAGLE-3 draft has a vocabulary of its own. Leave the other one out.")
        return _from_offsets(checkpoint, size) if _has_offsets(draft, checkpoint) else None
    return None if path is None else Vocabulary.frequent(read_ids(path), size=size, ends=ends)


def _has_offsets(draft: Eagle3, checkpoint: Checkpoint) -> bool:
    """A draft that guesses from as many tokens as the target knows may do without."""
    return draft.lm_head.out_features < draft.config.vocab or _OFFSETS in checkpoint.tensors


def _from_offsets(checkpoint: Checkpoint, size: int) -> Vocabulary:
    try:
        return Vocabulary.from_offsets(checkpoint.read(_OFFSETS), size=size)
    except BadParameter as error:
        raise WeightMismatch(f"{_OFFSETS} in {shown(str(checkpoint.path))}: {error}") from error


def _restrict(draft: Draft, words: Vocabulary) -> None:
    words = Vocabulary(words.ids.to(draft.device), size=draft.config.vocab)
    if isinstance(draft, Eagle2):
        draft.restrict(words)
    else:
        draft.vocabulary = words
