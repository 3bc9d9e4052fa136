"""The parts of an image file that decide its pixels, found without decoding any."""

from dataclasses import dataclass

from minicpm.errors import BadImage


@dataclass(frozen=True, slots=True)
class Container:
    """One image as its header describes it.

    `pixels` is the file without what does not change its pixels (profiles, comments, previews, frames of an
    animation), so that a decoder has little to trip over; `exif` is what is inside its EXIF part.
    """

    format: str
    width: int
    height: int
    pixels: bytes
    exif: bytes = b""


def cut_short(what: str) -> BadImage:
    """The error for a file that ends too early."""
    return BadImage(
        f"The {what} image is cut off: its data ends before its header says. Send the whole file."
    )


def broken(what: str) -> BadImage:
    """The error for a file that breaks its own format."""
    return BadImage(f"The {what} image is damaged and cannot be decoded. Save it again, or use another copy.")
