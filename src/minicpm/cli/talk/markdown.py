"""Markdown as a chat shows it: nothing is dropped, line breaks stay, and a long block shows its end."""

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Heading, Markdown
from rich.segment import Segment


class _LeftHeading(Heading):
    """A heading that is not centred."""

    LEVEL_ALIGN = dict.fromkeys(Heading.LEVEL_ALIGN, "left") if hasattr(Heading, "LEVEL_ALIGN") else {}


class ChatMarkdown(Markdown):
    """Markdown in which HTML is shown as text, since a tag may be what was asked for, and line breaks are kept."""

    elements = Markdown.elements | {"heading_open": _LeftHeading}

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
        self.markup = text
        self.parsed = parser.parse(text)
        for token in self.parsed:
            for child in token.children or ():
                if child.type == "softbreak":
                    child.type = "hardbreak"


class Tail:
    """The last lines of a block, as many as the screen has room for."""

    def __init__(self, text: str) -> None:
        self._markdown = ChatMarkdown(text)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._markdown, options, pad=False)
        room = max(console.size.height - 2, 1)
        for line in lines[-room:]:
            yield from line
            yield Segment.line()
