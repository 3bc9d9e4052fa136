"""Images of a request: where they stand in its prompt, and what tells one from another."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise

from minicpm.config import ModelConfig
from minicpm.config.vision import VisionConfig
from minicpm.errors import BadParameter
from minicpm.text.images.slots import ImageFormat
from minicpm.text.images.viewing import View, Viewer


@dataclass(frozen=True, slots=True, eq=False)
class PlacedImage:
    """A view whose token vectors replace the prompt's tokens from `start` on."""

    start: int
    view: View


@dataclass(frozen=True, slots=True, eq=False)
class NumberedImage:
    """A placed image of `count` vectors; images of one number, which is below zero, are the same."""

    start: int
    count: int
    number: int
    view: View


class ImageNumbers:
    """Gives equal images equal numbers, by the digest of what the model sees. Not thread-safe.

    The last 4096 are remembered; an image that was forgotten gets a new number, never one that was used.
    """

    def __init__(self, queries: int, *, remembered: int = 4096) -> None:
        self._queries = queries
        self._remembered = remembered
        self._known: dict[bytes, int] = {}
        self._next = count(1)

    def numbered(self, images: Iterable[PlacedImage]) -> tuple[NumberedImage, ...]:
        """The images with their numbers."""
        return tuple(
            NumberedImage(image.start, self._queries, self._number(image.view.digest), image.view)
            for image in images
        )

    def _number(self, digest: bytes) -> int:
        number = self._known.pop(digest, None) or -next(self._next)
        self._known[digest] = number
        if len(self._known) > self._remembered:
            del self._known[next(iter(self._known))]
        return number


def identity(tokens: "array[int]", images: Iterable[NumberedImage]) -> "array[int]":
    """Tokens as the reuse of cached ones compares them: those of an image carry its number, no token's id."""
    known = tokens[:]
    for image in images:
        known[image.start : image.start + image.count] = array("i", [image.number]) * image.count
    return known


def check_images(images: Sequence[PlacedImage], prompt: int, config: ModelConfig) -> None:
    """Raise BadParameter, with all that is wrong, unless a prompt of `prompt` tokens can hold the images."""
    problems = list(_problems(images, prompt, config.vision))
    if problems:
        raise BadParameter("The request's images are refused: " + "; ".join(problems) + ".")


def _problems(images: Sequence[PlacedImage], prompt: int, vision: VisionConfig | None) -> Iterator[str]:
    if not images:
        return
    if vision is None:
        yield f"there are {len(images)}, and the model reads text only"
        return
    shape, queries = (3, vision.image_size, vision.image_size), vision.resampler.queries
    starts = [image.start for image in images]
    wrong = [image.view.pixels.shape for image in images if image.view.pixels.shape != shape]
    if wrong:
        yield f"a view has the shape {wrong[0]}, and the model sees {shape}"
    if any(later - earlier < queries for earlier, later in pairwise(starts)):
        yield f"they start at {starts}, and each takes {queries} tokens, in order"
    if min(starts) < 0 or max(starts) + queries > prompt:
        yield f"they start at {starts}, and with {queries} tokens each they do not fit a prompt of {prompt}"


def image_format(vision: VisionConfig | None) -> ImageFormat | None:
    """How prompts of this model hold images; None for one that does not see."""
    if vision is None:
        return None
    spelled = vision.placeholder
    return ImageFormat(spelled.start, spelled.patch, spelled.end, vision.resampler.queries)


def viewer(vision: VisionConfig) -> Viewer:
    """How this model wants pictures."""
    return Viewer(vision.image_size, vision.mean, vision.std)
