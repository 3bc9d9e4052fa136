"""Images inside messages: OpenAI's content parts, whose URL carries the file itself."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Literal, TypedDict
from urllib.parse import unquote

from minicpm.errors import BadImage
from minicpm.text.images.recognising import MEDIA_TYPES, open_container

MAX_BYTES = 20 << 20
"""Bytes of the largest image file that is read."""


class ImageURL(TypedDict):
    """The data URL of an image."""

    url: str


class ImagePart(TypedDict):
    """One element of a list-valued content that is an image."""

    type: Literal["image_url"]
    image_url: ImageURL


def part_of_file(path: str | Path) -> ImagePart:
    """The content part of an image file, its content inside; raises BadImage.

    Messages never name files: whoever may write a message could otherwise read them.
    """
    data = _content(Path(path))
    media_type = MEDIA_TYPES[open_container(data).format]
    encoded = base64.b64encode(data).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{encoded}"}}


def bytes_of_url(url: str) -> bytes:
    """The content of a data URL (RFC 2397, base64 form); BadImage for every other URL: nothing is fetched."""
    scheme = url[:16].partition(":")[0].lower()
    if scheme in ("http", "https"):
        raise BadImage(
            f"The image is given as an {scheme} address, and images are not fetched from the network. "
            "Download it, and send its content as a data URL (data:image/png;base64,...)."
        )
    if scheme != "data":
        raise BadImage(
            "The image is given as something else than a data URL. Send the content of the file as "
            "data:image/png;base64,..., which minicpm.text.images.parts.part_of_file(path) writes."
        )
    return _decoded(url)


def _decoded(url: str) -> bytes:
    head, comma, payload = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise BadImage("The image's data URL is not in base64. Write it as data:image/png;base64,....")
    _check_bytes(len(payload) * 3 // 4)
    try:
        return base64.b64decode("".join(unquote(payload).split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImage(
            "The image's data URL is not valid base64. Encode the whole file again, padding included."
        ) from error


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadImage(f"The image {path} cannot be read: {error.strerror}. Check the path.") from error
    _check_bytes(len(data))
    return data


def _check_bytes(count: int) -> None:
    if count > MAX_BYTES:
        raise BadImage(
            f"The image has more than {MAX_BYTES:,} bytes, which is the most that is read. Make it smaller."
        )
