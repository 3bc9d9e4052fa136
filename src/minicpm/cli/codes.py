"""What a checkpoint holds in codes, and what it does not, as a document and in lines."""

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minicpm.checkpoint import Checkpoint
    from minicpm.checkpoint.packed_source import PackedSource

Document = dict[str, Any]


def describe_codes(checkpoint: "Checkpoint") -> Document | None:
    """Formats with bits, groups and bytes, and what stays plain; None where nothing is in codes."""
    if not checkpoint.packed:
        return None
    sources = list(checkpoint.packed.values())
    formats: dict[str, list[PackedSource]] = defaultdict(list)
    for source in sources:
        formats[source.format].append(source)
    return {
        "bits_per_weight": _bits(sources),
        "formats": [_format(name, formats[name]) for name in sorted(formats)],
        "plain": _plain(checkpoint),
    }


def codes_lines(document: Document | None) -> Iterator[tuple[str, str]]:
    """Rows for a description."""
    from minicpm.cli.units import size

    if document is None:
        return
    lines = [
        f"{f['format']}: {f['matrices']} {'matrix' if f['matrices'] == 1 else 'matrices'}, "
        f"{f['bits_per_weight']:.2f} bits per weight, {size(f['bytes'])}"
        for f in document["formats"]
    ]
    yield "quantized", "\n".join(lines)
    yield (
        "stays plain",
        "\n".join(f"{p['dtype']}: {', '.join(p['names'])}, {size(p['bytes'])}" for p in document["plain"]),
    )


def _format(name: str, sources: "list[PackedSource]") -> Document:
    first = sources[0]
    return {
        "format": name,
        "group": getattr(first, "group", None),
        "matrices": len(sources),
        "bits_per_weight": _bits(sources),
        "bytes": sum(source.nbytes for source in sources),
    }


def _bits(sources: "list[PackedSource]") -> float:
    weights = sum(source.shape[0] * source.shape[1] for source in sources)
    return 8 * sum(source.nbytes for source in sources) / weights


def _plain(checkpoint: "Checkpoint") -> list[Document]:
    """By number format: which modules, and their bytes."""
    names: dict[str, set[str]] = defaultdict(set)
    count: dict[str, int] = defaultdict(int)
    for name, info in checkpoint.tensors.items():
        names[info.dtype].add(
            "norms" if len(info.shape) == 1 else name.split(".")[-2] if "." in name else name
        )
        count[info.dtype] += info.nbytes
    return [{"dtype": dtype, "names": sorted(names[dtype]), "bytes": count[dtype]} for dtype in sorted(names)]
