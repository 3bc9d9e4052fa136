"""Computes the token vectors of images, once for all chunks and turns that show them."""

from collections import OrderedDict
from collections.abc import Sequence as Listing
from typing import NamedTuple

import torch
from torch import Tensor

from minicpm.engine.images import NumberedImage
from minicpm.engine.scheduler import Work
from minicpm.models.decoder import Decoder
from minicpm.models.vision_decoder import VisionDecoder

KEPT_IMAGES = 16
"""Images whose vectors are kept; 64 vectors of 4096 float32 values take 1 MiB."""


class _Part(NamedTuple):
    """Vectors first .. last - 1 of an image, for the rows of a batch from `row` on."""

    row: int
    image: NumberedImage
    first: int
    last: int


class Sight:
    """The tower of one decoder and the vectors it computed last. For the thread that runs steps."""

    def __init__(self, decoder: Decoder, *, kept: int = KEPT_IMAGES) -> None:
        self._decoder = decoder
        self._kept = kept
        self._vectors: OrderedDict[int, Tensor] = OrderedDict()

    def embedded(self, works: Listing[Work], ids: Tensor) -> Tensor | None:
        """What enters the first layer for the ids [T] of `works`, [T, D]; None where there is no image."""
        parts = _parts(works)
        if not parts:
            return None
        assert isinstance(self._decoder, VisionDecoder), "a request with images was checked against the model"
        rows = [torch.arange(part.row, part.row + part.last - part.first) for part in parts]
        vectors = [self._see(part.image, self._decoder)[part.first : part.last] for part in parts]
        return self._decoder.embed_seen(ids, torch.cat(rows).to(ids.device), torch.cat(vectors))

    def _see(self, image: NumberedImage, decoder: VisionDecoder) -> Tensor:
        """The vectors [Q, D] of an image."""
        if image.number not in self._vectors:
            self._vectors[image.number] = decoder.see(torch.from_numpy(image.view.pixels)[None])[0]
        self._vectors.move_to_end(image.number)
        if len(self._vectors) > self._kept:
            self._vectors.popitem(last=False)
        return self._vectors[image.number]


def _parts(works: Listing[Work]) -> list[_Part]:
    """What of which image the works show; a chunk of a prompt may begin and end inside one."""
    found: list[_Part] = []
    row = 0
    for work in works:
        for image in work.sequence.images:
            first = max(work.start, image.start)
            last = min(work.start + work.count, image.start + image.count)
            if first < last:
                found.append(_Part(row + first - work.start, image, first - image.start, last - image.start))
        row += work.count
    return found
