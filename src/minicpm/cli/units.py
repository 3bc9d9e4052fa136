"""Numbers as people read them."""

from collections.abc import Sequence


def size(count: int) -> str:
    """Bytes in binary units: 937 B, 12.4 MiB, 1.31 GiB."""
    if count < 1 << 10:
        return f"{count} B"
    if count < 1 << 20:
        return f"{count / (1 << 10):.1f} KiB"
    return f"{count / (1 << 20):.1f} MiB" if count < 1 << 30 else f"{count / (1 << 30):.2f} GiB"


def amount(count: int) -> str:
    """A number of parameters: 8.19 B, 434 M, 4.2 M, 870 k."""
    if count >= 10**9:
        return f"{count / 1e9:.2f} B"
    if count >= 10**6:
        return f"{count / 1e6:.0f} M" if count >= 10**7 else f"{count / 1e6:.1f} M"
    return f"{count / 1e3:.0f} k"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as aligned lines, two blanks between columns; the first row is the heading."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [line.rstrip() for line in lines]


def lines(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Names and values as aligned lines; a value's further lines hang below its first."""
    width = max(len(name) for name, _ in pairs)
    hanging = "\n" + " " * (width + 2)
    return [f"{name.ljust(width)}  {value.replace(chr(10), hanging)}".rstrip() for name, value in pairs]
