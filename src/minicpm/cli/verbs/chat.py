"""Talks with a model, or answers one message from standard input."""

from typing import TYPE_CHECKING, Annotated, Any

from minicpm.cli.arguments import ChatModelName, Images, System, Thinking
from minicpm.cli.opening import LOADING, LoadOptions
from minicpm.cli.options import from_fields, option
from minicpm.cli.talk.settings import SAMPLING, SAMPLING_PANEL, Settings, ThinkingChoice
from minicpm.engine.sampling import SamplingParams

if TYPE_CHECKING:
    from minicpm.cli.talk.conversation import Conversation
    from minicpm.engine.api import Model


@from_fields("sampling", SamplingParams, SAMPLING, panel=SAMPLING_PANEL, given_only=True)
@from_fields("load", LoadOptions, LOADING, panel="Loading")
def command(
    model: ChatModelName = "nano",
    *,
    system: System = None,
    image: Images = None,
    thinking: Thinking = ThinkingChoice.auto,
    truncate: Annotated[
        bool, option("--truncate", help="Leave out the oldest turns when the context is full.")
    ] = False,
    plain: Annotated[bool, option("--plain", help="Show text as it comes, without Markdown.")] = False,
    verbose: Annotated[
        bool, option("--verbose", "-v", help="With piped input: thinking, notes and speed on standard error.")
    ] = False,
    load: LoadOptions,
    sampling: dict[str, Any],
) -> None:
    """Talk with a model; /help in the chat lists what it can do.

    When standard input is no terminal, all of it is one message, and only the answer goes to standard output.
    """
    from minicpm.cli import standard_input

    settings = Settings(
        thinking=thinking.value, truncate=truncate, sampling=sampling, adapter=load.used_adapter
    )
    if standard_input.is_terminal():
        from minicpm.cli.opening import open_model
        from minicpm.cli.pictures import read_pictures
        from minicpm.cli.talk.conversation import Conversation
        from minicpm.cli.talk.echo import echo_off

        conversation = Conversation(system, read_pictures(image or ()))
        with echo_off():
            opened = open_model(model, load)
        _talk(opened, model, settings, conversation, plain=plain)
        return
    from minicpm.cli.asking import answer_message

    message = standard_input.read_message()
    answer_message(model, message, load, settings, system=system, images=image or (), verbose=verbose)


def _talk(
    model: "Model", name: str, settings: Settings, conversation: "Conversation", *, plain: bool
) -> None:
    from rich.console import Console

    from minicpm.cli.talk.chat import Chat
    from minicpm.cli.talk.history import history_file
    from minicpm.cli.talk.keyboard import Keyboard
    from minicpm.cli.talk.loop import talk
    from minicpm.cli.talk.screen import Screen

    console = Console()
    screen = Screen(console, aside=None if console.is_terminal else Console(stderr=True), plain=plain)
    limits = model.engine.limits
    context = min(limits.context, limits.cache_tokens)
    screen.note(f"{name}, up to {context:,} tokens. /help lists commands; Ctrl-D leaves.")
    for note in model.notes:
        screen.note(note)
    chat = Chat(model.chat_model, screen, conversation=conversation, settings=settings, context=context)
    try:
        talk(chat, Keyboard(history_file()))
    finally:
        chat.close()
