"""What lines that begin with a slash do."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minicpm.cli.lazy import nearest
from minicpm.cli.talk.chat import Chat
from minicpm.errors import BadInput, MiniCPMError


class Leave(Exception):
    """Raised by /exit."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its argument as help shows it, what it does, and the function that does it."""

    argument: str
    help: str
    run: Callable[[Chat, str], None]


def _system(chat: Chat, text: str) -> None:
    if text:
        chat.conversation.system = None if text == "-" else text
        chat.screen.note("The system message is gone." if text == "-" else "The system message is set.")
    else:
        chat.screen.note(chat.conversation.system or "There is no system message; /system TEXT sets one.")


def _think(chat: Chat, text: str) -> None:
    chat.settings.thinking = "on"
    chat.screen.note("The model thinks before it answers. /no_think turns that off.")


def _no_think(chat: Chat, text: str) -> None:
    chat.settings.thinking = "off"
    chat.screen.note("The model answers without thinking. /think turns it on.")


def _reset(chat: Chat, text: str) -> None:
    chat.conversation.reset()
    chat.last = None
    chat.screen.note("A new conversation begins; system message and settings stay.")


def _regenerate(chat: Chat, text: str) -> None:
    question = chat.conversation.take_back()
    if question is None:
        raise BadInput("There is no answer yet to be given again. Ask something first.")
    chat.ask(question)


def _undo(chat: Chat, text: str) -> None:
    question = chat.conversation.take_back()
    if question is None:
        raise BadInput("There is nothing to take back. Ask something first.")
    first = question.strip().split("\n")[0]
    chat.screen.note(f"Taken back: {first if len(first) <= 60 else first[:59] + '…'}")


def _save(chat: Chat, text: str) -> None:
    path = _path(text, "/save FILE")
    chat.conversation.save(path, chat.settings.saved())
    chat.screen.note(f"Saved {len(chat.conversation.messages)} messages to {path}.")


def _load(chat: Chat, text: str) -> None:
    path = _path(text, "/load FILE")
    saved = chat.conversation.load(path)
    chat.settings.restore(saved)
    chat.last = None
    chat.screen.note(f"Loaded {len(chat.conversation.messages)} messages from {path}.")


def _image(chat: Chat, text: str) -> None:
    from minicpm.cli.pictures import read_pictures

    chat.conversation.waiting += read_pictures([str(_path(text, "/image FILE"))])
    chat.screen.note("The next question shows it.")


def _tokens(chat: Chat, text: str) -> None:
    if chat.last is None:
        raise BadInput("Nothing was counted yet; tokens are known after the next answer.")
    usage = chat.last.usage
    total = usage.prompt_tokens + usage.completion_tokens
    room = "" if chat.context is None else f" of {chat.context:,}"
    chat.screen.note(
        f"{total:,}{room} tokens: {usage.prompt_tokens:,} in the last prompt ({usage.cached_tokens:,} "
        f"cached), {usage.completion_tokens:,} in its answer."
    )


def _set(chat: Chat, text: str) -> None:
    key, _, value = text.partition(" ")
    if key and value.strip():
        chat.settings.set(key, value.strip())
        chat.screen.note(f"{key} is {value.strip()}.")
        return
    rows = [row for row in chat.settings.described() if not key or row[0] == key.replace("-", "_")]
    if not rows:
        chat.settings.set(key, "")
    chat.screen.table((f"{name} = {value}", what) for name, value, what in rows)


def _help(chat: Chat, text: str) -> None:
    chat.screen.table((f"/{name} {c.argument}".rstrip(), c.help) for name, c in COMMANDS.items())
    chat.screen.say("")
    chat.screen.say("Enter sends. Alt+Enter, or a backslash at the end of a line, begins a new line.")
    chat.screen.say("Ctrl-C stops an answer and keeps what was written; twice at an empty prompt, it leaves.")
    chat.screen.say("A blank before the slash sends a line that is no command.")


def _exit(chat: Chat, text: str) -> None:
    raise Leave


COMMANDS = {
    "system": Command("[TEXT]", "show or set the system message; - removes it", _system),
    "think": Command("", "let the model think before it answers", _think),
    "no_think": Command("", "let it answer at once", _no_think),
    "reset": Command("", "begin a new conversation", _reset),
    "regenerate": Command("", "ask the last question again", _regenerate),
    "undo": Command("", "take back the last question and its answer", _undo),
    "image": Command("FILE", "show a picture with the next question, to a model that sees", _image),
    "save": Command("FILE", "write the conversation to a file", _save),
    "load": Command("FILE", "continue a saved conversation", _load),
    "tokens": Command("", "say how much of the context is used", _tokens),
    "set": Command("[KEY [VALUE]]", "show or change settings such as temperature; default undoes", _set),
    "help": Command("", "show this", _help),
    "exit": Command("", "leave (or Ctrl-D)", _exit),
}
_ALIASES = {"quit": "exit", "bye": "exit", "?": "help", "nothink": "no_think", "retry": "regenerate"}


def is_command(line: str) -> bool:
    """A line that begins with a slash is for the program."""
    return line.startswith("/")


def run_command(chat: Chat, line: str) -> None:
    """Does what a command says, or says why not; raises Leave when the chat is over."""
    name, _, argument = line[1:].strip().partition(" ")
    command = COMMANDS.get(_ALIASES.get(name, name))
    try:
        if command is None:
            near = nearest(f"/{name}", [f"/{known}" for known in COMMANDS])
            raise BadInput(
                f"There is no command /{name}.{near} /help lists them; put a blank before the slash to send "
                "the line to the model."
            )
        command.run(chat, argument.strip())
    except MiniCPMError as error:
        chat.screen.refuse(str(error))


def _path(text: str, usage: str) -> Path:
    if not text:
        raise BadInput(f"The name of a file is missing: {usage}.")
    return Path(os.path.expanduser(text))
