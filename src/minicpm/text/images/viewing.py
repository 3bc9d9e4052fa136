"""Turns a picture into the array a model's tower reads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from minicpm.text.images.decoding import MAX_PIXELS, decode, pillow

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

Channels = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Viewer:
    """How a model wants pictures: `size` x `size` pixels, values in 0 .. 1 normalised per channel."""

    size: int
    mean: Channels
    std: Channels

    def view(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> View:
        """The view of an encoded image; raises as `decode` does."""
        return self.view_of(decode(data, max_pixels=max_pixels))

    def view_of(self, image: Image) -> View:
        """The view of an RGB image: resized with a bicubic filter whatever its shape, then normalised."""
        import numpy as np

        resized = image.resize((self.size, self.size), pillow().Resampling.BICUBIC)
        values = np.asarray(resized, dtype=np.float32) / np.float32(255)
        normalised = (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return View(np.ascontiguousarray(normalised.transpose(2, 0, 1)))


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What a model sees of one image: float32 [3, size, size]."""

    pixels: NDArray[np.float32]

    @property
    def digest(self) -> bytes:
        """sha256 of the pixels: equal digests mean the model sees the same."""
        return hashlib.sha256(self.pixels.tobytes()).digest()
