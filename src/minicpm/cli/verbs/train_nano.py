"""Trains nano, the model inside the package."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from minicpm.cli.options import option, whole_number

if TYPE_CHECKING:
    from minicpm.train.nano.recipe import Recipe

_STEPS = "Steps of the stage (default: the recipe's)"
Steps = int | None


def command(
    *,
    out: Annotated[Path, option("--out", help="Folder for the log, the states and the finished model.")],
    corpus: Annotated[
        Path | None, option("--corpus", help="Folder with text to mix into the generated corpus.")
    ] = None,
    stable: Annotated[Steps, option("--stable", parser=whole_number, help=f"{_STEPS}: all skills.")] = None,
    long: Annotated[Steps, option("--long", parser=whole_number, help=f"{_STEPS}: long documents.")] = None,
    chat: Annotated[
        Steps, option("--chat", parser=whole_number, help=f"{_STEPS}: conversations, while the rate falls.")
    ] = None,
    warmup: Annotated[
        Steps, option("--warmup", parser=whole_number, help="Steps of rising learning rate at the start.")
    ] = None,
    seed: Annotated[
        int | None, option("--seed", parser=whole_number, help="The same seed gives the same model.")
    ] = None,
    questions: Annotated[
        int, option("--questions", parser=whole_number, help="Held-out questions per exam; 0 for none.")
    ] = 200,
) -> None:
    """Train nano on text that the package generates, and examine it; prints the finished model's folder.

    Ctrl-C stops after the running step; the same command continues from the last saved state. With the extra
    `plot` a picture of loss and learning rate is drawn at the end.
    """
    from minicpm.cli.training import train_with_progress

    given = {"stable": stable, "long": long, "chat": chat, "warmup": warmup, "seed": seed}
    _check(out, corpus, questions)
    recipe = _recipe({name: value for name, value in given.items() if value is not None})
    model = train_with_progress(out, recipe, corpus)
    if questions:
        from minicpm.cli.examining import examine_nano

        examine_nano(
            model, log=out / "log.jsonl", recipe=recipe, public=corpus is not None, questions=questions
        )
    print(model)


def _recipe(given: dict[str, Any]) -> "Recipe":
    from minicpm.errors import BadParameter

    negative = [f"--{name} {value}" for name, value in given.items() if value < 0]
    if negative:
        raise BadParameter(f"Steps and seed cannot be negative: {', '.join(negative)}. Give 0 or more.")
    from minicpm.train.nano.recipe import Recipe

    recipe = Recipe(**given)
    if recipe.schedule.steps < 1:
        raise BadParameter("All stages together have no step, so there is nothing to train. Give some steps.")
    return recipe


def _check(out: Path, corpus: Path | None, questions: int) -> None:
    from minicpm.errors import BadInput

    if questions < 0:
        raise BadInput(f"--questions is {questions}. Give 0 for no exams, or how many questions each has.")
    if corpus is not None and not corpus.is_dir():
        raise BadInput(f"{corpus} is not a folder. --corpus takes a folder with text to mix in.")
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file. --out takes a folder, new or of a run to be continued.")
    started = out.is_dir() and ((out / "log.jsonl").exists() or (out / "tokenizer").is_dir())
    if out.is_dir() and any(out.iterdir()) and not started:
        raise BadInput(f"{out} holds other files and no training run. Give a new folder, or that of a run.")
