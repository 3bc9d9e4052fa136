"""Sorts lines of text by how well they answer a query."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from minicpm.cli.arguments import ModelName
from minicpm.cli.opening import LOADING_WHOLE_TEXTS, LoadOptions
from minicpm.cli.options import from_fields, option, whole_number


class ScaleChoice(StrEnum):
    """How scores are given."""

    logit = "logit"
    probability = "probability"


@from_fields("load", LoadOptions, LOADING_WHOLE_TEXTS, panel="Loading")
def command(
    model: ModelName,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...", help="Files with a document in each line, if not standard input."
        ),
    ] = None,
    *,
    query: Annotated[str, option("--query", metavar="TEXT", help="What the documents are to answer.")],
    instruction: Annotated[
        str | None, option("--instruction", metavar="TEXT", help="What is sought, in a sentence.")
    ] = None,
    top: Annotated[
        int | None,
        option("--top", metavar="N", parser=whole_number, help="Print the best so many, not all."),
    ] = None,
    scale: Annotated[
        ScaleChoice, option("--scale", help="The model's own number, or one from 0 to 1.")
    ] = ScaleChoice.logit,
    truncate: Annotated[
        bool, option("--truncate", help="Cut the end of documents beyond the model's limit.")
    ] = False,
    load: LoadOptions,
) -> None:
    """Sort lines by how well they answer a query; prints JSON with index, score and text, a line for each."""
    from minicpm.cli.failures import stage
    from minicpm.cli.lines import read_lines
    from minicpm.cli.opening import open_reranker
    from minicpm.cli.output import print_json
    from minicpm.cli.progress import count_bar

    _check(query, top)
    lines = read_lines(files or [], "documents to rank")
    reranker = open_reranker(model, load)
    with stage("Stopped. Nothing was printed.") as running, count_bar("Ranking") as count:
        scores = reranker.rank(
            query,
            lines,
            instruction=instruction,
            scale=scale.value,
            truncate=truncate,
            report=count,
        )
        running.check()
    best = sorted(range(len(lines)), key=lambda index: -scores[index])
    for index in best[:top]:
        print_json({"index": index, "score": scores[index], "text": lines[index]})


def _check(query: str, top: int | None) -> None:
    from minicpm.errors import BadInput

    problems = []
    if not query.strip():
        problems.append("the query is empty")
    if top is not None and top < 1:
        problems.append(f"--top is {top}, and at least 1 line is to be printed")
    if problems:
        raise BadInput(f"This cannot be ranked: {'; '.join(problems)}. Correct it and try again.")
