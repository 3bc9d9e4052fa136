"""Takes from text what would steer a terminal instead of being shown."""

_CONTROLS = {code: 0x2400 + code for code in range(0x20)} | {0x7F: 0x2421}
_CONTROLS |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
# Marks that reorder what is shown, so that it reads differently than it is.
_CONTROLS |= dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD)
_KEPT = (ord("\n"), ord("\t"))
_TABLE = {code: shown for code, shown in _CONTROLS.items() if code not in _KEPT}


def printable(text: str) -> str:
    """The text with control characters replaced by visible ones; a model or a file may have written them."""
    return text.replace("\r\n", "\n").translate(_TABLE)
