"""Pictures that are shown to a model, from files."""

from collections.abc import Iterable

from minicpm.text.images.decoding import decode
from minicpm.text.images.parts import ImagePart, bytes_of_url, part_of_file


def read_pictures(paths: Iterable[str]) -> list[ImagePart]:
    """The content parts of image files; BadImage for one that cannot be decoded, before a model is loaded."""
    parts = [part_of_file(path) for path in paths]
    for part in parts:
        decode(bytes_of_url(part["image_url"]["url"]))
    return parts
