"""Asks a model one thing and prints the answer."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from minicpm.cli.failures import stage
from minicpm.cli.once import Printed, print_answer, say_notes
from minicpm.cli.opening import LoadOptions, open_model
from minicpm.cli.pictures import read_pictures
from minicpm.cli.talk.conversation import Conversation
from minicpm.cli.talk.settings import Settings
from minicpm.text.events import End, Event, TextDelta, Timings

if TYPE_CHECKING:
    from minicpm.engine.stream import Stream


def answer_message(
    name: str,
    message: str,
    load: LoadOptions,
    settings: Settings,
    *,
    system: str | None = None,
    images: Sequence[str] = (),
    verbose: bool = False,
    silent: bool = False,
) -> Printed:
    """Loads a model and prints its answer to one message, which may show image files.

    That turns were left out is always said.
    """
    conversation = Conversation(system, read_pictures(images))
    conversation.ask(message)
    model = open_model(name, load)
    if verbose:
        say_notes(model.notes)
    with stage("Stopped."):
        answer = model.chat_model.chat(conversation.messages, **settings.chat_options())
    say_notes(answer.notes)
    return print_answer(answer, verbose=verbose, silent=silent)


def continue_text(
    name: str,
    text: str,
    load: LoadOptions,
    settings: Settings,
    *,
    verbose: bool = False,
    silent: bool = False,
) -> Printed:
    """Loads a model and prints how it continues a text, without a chat template."""
    model = open_model(name, load)
    if verbose:
        say_notes(model.notes)
    with stage("Stopped."):
        stream = model.stream(text, **settings.text_options())
    return print_answer(_events(stream), verbose=verbose, silent=silent)


def _events(stream: "Stream") -> Iterator[Event]:
    from minicpm.engine.answer import usage

    for output in stream:
        yield TextDelta(output.text)
    result = stream.so_far()
    reason = result.samples[0].finish_reason or "abort"
    yield End(reason, usage(result), Timings(result.prefill_s, result.decode_s))
