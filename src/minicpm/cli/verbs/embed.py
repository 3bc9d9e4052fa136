"""Turns lines of text into vectors."""

from pathlib import Path
from typing import Annotated

import typer

from minicpm.cli.arguments import ModelName
from minicpm.cli.opening import LOADING_WHOLE_TEXTS, LoadOptions
from minicpm.cli.options import from_fields, option


@from_fields("load", LoadOptions, LOADING_WHOLE_TEXTS, panel="Loading")
def command(
    model: ModelName,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Files with a text in each line, if not standard input."),
    ] = None,
    *,
    query: Annotated[bool, option("--query", help="The lines are queries, not documents.")] = False,
    instruction: Annotated[
        str | None, option("--instruction", metavar="TEXT", help="The lines are queries for what this says.")
    ] = None,
    truncate: Annotated[
        bool, option("--truncate", help="Cut the end of texts beyond the model's limit.")
    ] = False,
    with_text: Annotated[bool, option("--with-text", help="Repeat the text in its line.")] = False,
    load: LoadOptions,
) -> None:
    """Turn each line into a vector of length 1; prints a line of JSON with index and embedding for each."""
    from minicpm.cli.failures import stage
    from minicpm.cli.lines import read_lines
    from minicpm.cli.opening import open_embedder
    from minicpm.cli.output import print_json
    from minicpm.cli.progress import count_bar
    from minicpm.text.query import query_text

    lines = read_lines(files or [], "texts to embed")
    embedder = open_embedder(model, load)
    is_query = query or instruction is not None
    texts = [query_text(line, instruction) for line in lines] if is_query else lines
    with (
        stage("Stopped. The lines that were printed are complete.") as running,
        count_bar("Embedding") as count,
    ):
        for index, vector in enumerate(embedder.stream(texts, truncate=truncate, report=count)):
            running.check()
            text = {"text": lines[index]} if with_text else {}
            print_json({"index": index, **text, "embedding": vector})
