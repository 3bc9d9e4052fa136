"""What a model sees with: a vision transformer, and the resampler from its patches to token vectors."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VisionTransformer:
    """`layers` blocks over square patches of `patch` pixels a side; positions are learned for grid x grid."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    patch: int
    grid: int
    eps: float = 1e-6

    @property
    def _shared_weights(self) -> int:
        """Patch embedding, positions, final norm, and per block its two norms, matrices and MLP biases."""
        d, m = self.hidden, self.intermediate
        embedding = d * (3 * self.patch**2 + 1) + d * self.grid**2
        block = 4 * d + 4 * d * d + d + 2 * d * m + d + m
        return embedding + self.layers * block + 2 * d


@dataclass(frozen=True, slots=True)
class Siglip(VisionTransformer):
    """SigLIP: norms before each branch, no class token; q, k and v share one biased projection."""

    @property
    def weights(self) -> int:
        """Number of parameters."""
        return self._shared_weights + self.layers * 3 * self.hidden


@dataclass(frozen=True, slots=True)
class Eva(VisionTransformer):
    """EVA: norms after each branch, a class token that is dropped at the end; keys have no bias."""

    @property
    def weights(self) -> int:
        """Number of parameters."""
        return self._shared_weights + self.layers * 2 * self.hidden + 2 * self.hidden


Tower = Siglip | Eva


@dataclass(frozen=True, slots=True)
class ResizedPositions:
    """Keys get the queries' positions, resized to the grid of patches."""


@dataclass(frozen=True, slots=True)
class FreshPositions:
    """Keys get sine-cosine positions computed for the grid of patches."""


@dataclass(frozen=True, slots=True)
class Perceiver:
    """side x side learned queries that attend once to all patches with `heads` heads."""

    side: int
    heads: int
    positions: ResizedPositions | FreshPositions
    eps: float = 1e-6

    @property
    def queries(self) -> int:
        """Vectors per image."""
        return self.side**2

    def weights(self, patch_width: int, hidden: int) -> int:
        """Number of parameters, for patches of `patch_width` and token vectors of `hidden`."""
        attention = 4 * hidden * hidden + 4 * hidden
        projected = 0 if patch_width == hidden else hidden * patch_width
        return 2 * self.queries * hidden + projected + attention + 6 * hidden + hidden * hidden


@dataclass(frozen=True, slots=True)
class Placeholder:
    """How a prompt holds an image: `start`, then `patch` once per vector, then `end`; all control tokens."""

    start: str
    patch: str
    end: str


@dataclass(frozen=True, slots=True)
class WeightNames:
    """Where a checkpoint keeps its parts: prefixes of tensor names; `text` is empty where there is none."""

    text: str
    tower: str
    resampler: str


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """All that decides how an image becomes token vectors.

    An image is resized to a square of `image_size` pixels; its values in 0 .. 1 are normalised by `mean` and
    `std` per channel.
    """

    tower: Tower
    resampler: Perceiver
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    placeholder: Placeholder
    names: WeightNames

    def weights(self, hidden: int) -> int:
        """Number of parameters beside the decoder's, for token vectors of `hidden`."""
        return self.tower.weights + self.resampler.weights(self.tower.hidden, hidden)
