"""Markdown as a chat shows it: nothing is dropped, line breaks stay, and a long block can show its end."""

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown
from rich.segment import Segment
from rich.syntax import Syntax


class Block:
    """One block of Markdown without blank lines around it; with `tail` its end, as far as the screen goes."""

    def __init__(self, text: str, *, tail: bool = False) -> None:
        self._markdown = _ChatMarkdown(text)
        self._tail = tail

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = _trimmed(console.render_lines(self._markdown, options, pad=False))
        room = max(console.size.height - 2, 1)
        for line in lines[-room:] if self._tail else lines:
            yield from line
            yield Segment.line()


class _LeftHeading(Heading):
    """A heading that is not centred, in every version of rich."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _Code(CodeBlock):
    """Code in the terminal's own colours, indented, so that copying it brings nothing else along."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip()
        yield Syntax(
            code,
            self.lexer_name,
            theme="ansi_dark",
            background_color="default",
            word_wrap=True,
            padding=(0, 2),
        )


class _ChatMarkdown(Markdown):
    """Markdown that keeps line breaks, and shows HTML as text, since a tag may be what was asked for."""

    elements = Markdown.elements | {"heading_open": _LeftHeading, "fence": _Code, "code_block": _Code}

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
        self.markup = text
        self.parsed = parser.parse(text)
        for token in self.parsed:
            for child in token.children or ():
                if child.type == "softbreak":
                    child.type = "hardbreak"


def _trimmed(lines: list[list[Segment]]) -> list[list[Segment]]:
    filled = [i for i, line in enumerate(lines) if any(segment.text.strip() for segment in line)]
    return lines[filled[0] : filled[-1] + 1] if filled else []
