"""Decodes an image file into upright RGB pixels."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Any

from minicpm.errors import BadImage, MissingExtra
from minicpm.text.images.container import Container, broken
from minicpm.text.images.orientation import UPRIGHT, orientation
from minicpm.text.images.recognising import open_container

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 25_000_000
"""Pixels of the largest image that is decoded by default: 200 MiB for a JPEG, 500 for a transparent WebP."""
MAX_SIDE = 65_535
"""A resize takes memory in proportion to the longer side too."""

# What Pillow's readers raise for data that is not as its header promises.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
    zlib.error,
)


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image:
    """An RGB image, turned as its EXIF part says, of the first frame of a PNG, JPEG or WebP file.

    Transparency is laid over white, 16 bits per channel become their upper 8, CMYK is converted without a
    colour profile. Raises BadImage for anything else, for too many pixels (before they are decoded) and for
    damaged data; MissingExtra without Pillow.
    """
    container = open_container(data)
    _check_size(container, max_pixels)
    return _upright(_rgb(_decoded(container)), orientation(container.exif))


def pillow() -> Any:
    """The module PIL.Image; raises MissingExtra where Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra(
            "Images need Pillow, which is not installed. `pip install 'minicpm[vision]'` installs it."
        ) from error
    return Image


def _check_size(container: Container, max_pixels: int) -> None:
    width, height = container.width, container.height
    if width < 1 or height < 1:
        raise broken(container.format)
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise BadImage(
            f"The image has {width:,} x {height:,} pixels, and at most {max_pixels:,} in all and "
            f"{MAX_SIDE:,} a side are decoded. Make it smaller; the model sees a reduced copy anyway."
        )


def _decoded(container: Container) -> Image:
    library = pillow()
    try:
        image: Image = library.open(BytesIO(container.pixels), formats=(container.format,))
        if image.size != (container.width, container.height):
            raise broken(container.format)
        image.load()
    except (*_PILLOW_ERRORS, library.DecompressionBombError) as error:
        raise broken(container.format) from error
    return image


def _rgb(image: Image) -> Image:
    if image.mode.startswith("I"):
        image = _upper_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    covered = image.convert("RGBA")
    white = pillow().new("RGB", image.size, "white")
    white.paste(covered, mask=covered)
    return white  # type: ignore[no-any-return]


def _upper_bits(image: Image) -> Image:
    """16-bit grey as 8-bit grey; Pillow's own conversion would cut at 255."""
    import numpy as np

    grey: Image = pillow().fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return grey


def _upright(image: Image, turned: int) -> Image:
    if turned == UPRIGHT:
        return image
    way = pillow().Transpose
    undo = {
        2: way.FLIP_LEFT_RIGHT,
        3: way.ROTATE_180,
        4: way.FLIP_TOP_BOTTOM,
        5: way.TRANSPOSE,
        6: way.ROTATE_270,
        7: way.TRANSVERSE,
        8: way.ROTATE_90,
    }
    return image.transpose(undo[turned])
