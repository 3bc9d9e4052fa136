"""What the tests of measurements share: small shapes."""

from collections.abc import Callable

import pytest

from minicpm.bench.shapes import Shape, shape_of
from minicpm.models.registry import parse
from minicpm.testing.tiny import tiny_config

FAMILIES = ["minicpm4-0.5b", "minicpm-2b", "minicpm3-4b", "minicpm-sala", "minicpm-moe-8x2b", "minicpm-s-1b"]


@pytest.fixture
def toy() -> Callable[..., Shape]:
    """The toy shape of a published model."""

    def make(family: str = "minicpm4-0.5b", **changes: object) -> Shape:
        return shape_of(family, parse(tiny_config(family) | changes))

    return make


@pytest.fixture(params=FAMILIES)
def each(request, toy) -> Shape:
    """The toy shape of one published model after the other."""
    return toy(request.param)
