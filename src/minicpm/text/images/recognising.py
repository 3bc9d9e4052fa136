"""What kind of file some bytes are, by their content; a name or a declared type proves nothing."""

from minicpm.errors import BadImage
from minicpm.text.images import jpeg, png, webp
from minicpm.text.images.container import Container

MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}

_OTHERS = (
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"%PDF", "a PDF document"),
)


def open_container(data: bytes) -> Container:
    """The container of a PNG, JPEG or WebP file; BadImage for every other content."""
    if not data:
        raise BadImage("The image is empty (0 bytes). Send the content of a PNG, JPEG or WebP file.")
    if data.startswith(png.SIGNATURE):
        return png.read_png(data)
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.read_jpeg(data)
    if webp.is_webp(data):
        return webp.read_webp(data)
    raise BadImage(
        f"The image is {_guess(data)}, and only PNG, JPEG and WebP can be read, whatever a file is called. "
        "Convert it to one of them."
    )


def _guess(data: bytes) -> str:
    head = data[:512].lstrip().lower()
    if head.startswith((b"<svg", b"<?xml")) or b"<svg" in head:
        return "an SVG drawing"
    if data[4:8] == b"ftyp":
        return "an AVIF, HEIC or video file"
    return next(
        (name for mark, name in _OTHERS if data.startswith(mark)), "none of the image formats known here"
    )
