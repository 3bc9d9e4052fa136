"""Answers one prompt and prints the answer."""

from typing import TYPE_CHECKING, Annotated, Any

from minicpm.cli.arguments import ChatModelName, Images, System, Thinking
from minicpm.cli.opening import LOADING, LoadOptions
from minicpm.cli.options import from_fields, option
from minicpm.cli.talk.settings import SAMPLING, SAMPLING_PANEL, Settings, ThinkingChoice
from minicpm.engine.sampling import SamplingParams

if TYPE_CHECKING:
    from minicpm.cli.once import Printed


@from_fields("sampling", SamplingParams, SAMPLING, panel=SAMPLING_PANEL, given_only=True)
@from_fields("load", LoadOptions, LOADING, panel="Loading")
def command(
    model: ChatModelName,
    *,
    prompt: Annotated[str | None, option("--prompt", "-p", help="The prompt, if not standard input.")] = None,
    raw: Annotated[
        bool, option("--raw", help="Continue the text as it is, without a chat template.")
    ] = False,
    system: System = None,
    image: Images = None,
    thinking: Thinking = ThinkingChoice.auto,
    json: Annotated[
        bool, option("--json", help="Print one JSON document: text, reasoning, tool calls, usage, timings.")
    ] = False,
    verbose: Annotated[
        bool, option("--verbose", "-v", help="Thinking, notes and speed on standard error.")
    ] = False,
    load: LoadOptions,
    sampling: dict[str, Any],
) -> None:
    """Answer one prompt and print the answer; nothing of the prompt is ever cut."""
    from minicpm.cli import asking
    from minicpm.errors import BadInput

    settings = Settings(thinking=thinking.value, sampling=sampling, adapter=load.used_adapter)
    if raw and (system is not None or image or thinking is not ThinkingChoice.auto):
        raise BadInput(
            "--raw continues plain text, so it goes with none of --system, --image and --thinking. "
            "Leave one out."
        )
    message = _message(prompt)
    if raw:
        printed = asking.continue_text(model, message, load, settings, verbose=verbose, silent=json)
    else:
        printed = asking.answer_message(
            model, message, load, settings, system=system, images=image or (), verbose=verbose, silent=json
        )
    if json:
        from minicpm.cli.output import print_json

        print_json({"model": model, **_document(printed)})


def _message(prompt: str | None) -> str:
    from minicpm.cli import standard_input
    from minicpm.errors import BadInput

    if prompt is None and standard_input.is_terminal():
        raise BadInput("There is no prompt. Give one with -p TEXT, or pipe it into standard input.")
    if prompt == "":
        raise BadInput("The prompt is empty. Give some text with -p TEXT.")
    return standard_input.read_message() if prompt is None else prompt


def _document(printed: "Printed") -> dict[str, Any]:
    from dataclasses import asdict

    timings = printed.end.timings
    return {
        "text": printed.text,
        "reasoning": printed.reasoning,
        "tool_calls": [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in printed.calls],
        "finish_reason": printed.end.reason,
        "usage": asdict(printed.end.usage),
        "timings": None if timings is None else asdict(timings),
        "notes": list(printed.notes),
    }
