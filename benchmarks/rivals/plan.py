"""Which work is compared, on which shapes and weights, and with whom."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from minicpm.models.published import by_name

# Those that have a format of these weights. What they have in mind with "int4" differs in the size of groups.
RIVALS = {
    "int4": ("llama.cpp", "openvino"),
    "int8": ("llama.cpp", "openvino"),
    "bf16": ("llama.cpp", "transformers"),
    "ternary": (),
}
LATENT = "MiniCPM3-4B"


@dataclass(frozen=True, slots=True)
class Shape:
    """A published config, perhaps with fewer layers."""

    name: str
    raw: dict[str, Any] = field(hash=False)

    @property
    def label(self) -> str:
        """Name and number of layers."""
        return f"{self.name}, {self.raw['num_hidden_layers']} layers"


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    `context` is the length of a prefill's prompt, and what a decode finds in the cache of each of `batch`
    sequences; `tokens` of each are then decoded per turn.
    """

    work: str
    shape: Shape
    weights: str
    context: int
    rivals: tuple[str, ...]
    batch: int = 1
    sparse: bool = False

    @property
    def tokens(self) -> int:
        """So many that a turn takes about a second."""
        return 16 if self.context < 16384 else 8

    @property
    def request(self) -> dict[str, Any]:
        """What a worker is asked."""
        if self.work == "prefill":
            return {"work": "prefill", "tokens": self.context}
        return {"work": "decode", "context": self.context, "tokens": self.tokens, "streams": self.batch}

    @property
    def title(self) -> str:
        """In a few words."""
        kinds = [f"{self.batch} streams"] * (self.batch > 1) + ["sparse"] * self.sparse
        return ", ".join([f"{self.work} {self.context}", *kinds, self.weights, self.shape.label])


def shape(name: str, layers: int | None) -> Shape:
    """A published shape; KeyError for a name that is none."""
    raw = dict(by_name(name).raw)
    return Shape(name, raw if layers is None else raw | {"num_hidden_layers": layers})


def quick_rows(model: Shape) -> list[Row]:
    """Short and 4k decode and a short prefill, for all weights that have rivals."""
    works = (("decode", 0), ("decode", 4096), ("prefill", 512))
    return [_row(work, model, w, context) for w in ("int4", "int8", "bf16") for work, context in works]


def all_rows(model: Shape, latent: Shape, *, long: bool) -> list[Row]:
    """Every row; with `long` the rivals take part in what they need many minutes for."""
    return [*_int4_rows(model, long=long), *_other_rows(model), _row("decode", latent, "int4", 4096)]


def _int4_rows(model: Shape, *, long: bool) -> Iterator[Row]:
    for context in (0, 4096, 16384, 32768):
        yield _row("decode", model, "int4", context)
    yield _row("parallel", model, "int4", 512, batch=8)
    for tokens in (512, 2048, 8192):
        yield _row("prefill", model, "int4", tokens)
    longest = {} if long else {"rivals": ()}
    yield _row("prefill", model, "int4", 32768, **longest)
    yield _row("prefill", model, "int4", 32768, sparse=True, **longest)
    for context in (16384, 32768):
        yield _row("decode", model, "int4", context, sparse=True)
    yield _row("decode", model, "int4", 131072, sparse=True, rivals=())


def _other_rows(model: Shape) -> Iterator[Row]:
    yield _row("decode", model, "ternary", 0)
    for weights in ("int8", "bf16"):
        for context in (0, 4096):
            yield _row("decode", model, weights, context)
        yield _row("prefill", model, weights, 512)
    yield _row("decode", model, "bf16", 16384)
    yield _row("prefill", model, "bf16", 2048)


def _row(work: str, model: Shape, weights: str, context: int, **own: Any) -> Row:
    rivals = tuple(name for name in RIVALS[weights] if model.name != LATENT or name == "llama.cpp")
    return Row(work, model, weights, context, **({"rivals": rivals} | own))
