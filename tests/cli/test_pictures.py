"""Pictures on the command line and in the chat."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from minicpm.cli.pictures import read_pictures
from minicpm.cli.talk.chat import Chat
from minicpm.cli.talk.commands import run_command
from minicpm.cli.talk.conversation import Conversation
from minicpm.cli.talk.screen import Screen
from minicpm.errors import BadImage, MessageError
from minicpm.testing import ScriptedChat, tiny_checkpoint

Image = pytest.importorskip("PIL.Image", reason="`pip install 'minicpm[vision]'` runs this")
GREEDY = ("--temperature", "0", "--max-tokens", "8", "--repetition-penalty", "1")


@pytest.fixture
def picture(tmp_path):
    """picture(seed) -> the path of an image file."""

    def make(seed=0):
        path = tmp_path / f"{seed}.png"
        colours = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(colours).save(path)
        return str(path)

    return make


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    folder = tiny_checkpoint("omnilmm-12b", tmp_path_factory.mktemp("cli") / "seeing")
    return str(folder)


@pytest.fixture
def chat():
    """chat(answers, pictures) -> a Chat over scripted answers, and what it shows."""
    made = []

    def make(model, pictures=()):
        output = io.StringIO()
        made.append(
            Chat(model, Screen(Console(file=output, width=100)), conversation=Conversation(None, pictures))
        )
        return made[-1], output

    yield make
    for one in made:
        one.close()


def kinds(message):
    content = message["content"]
    return "text" if isinstance(content, str) else [part["type"] for part in content]


def test_a_picture_changes_what_run_answers(program, seeing, picture):
    def answer(*more):
        done = program("run", seeing, "-p", "hello", "--json", *more, *GREEDY)
        assert done.code == 0, done.err
        return json.loads(done.out.splitlines()[-1])

    blind, one = answer(), answer("--image", picture(1))
    two = answer("--image", picture(1), "--image", picture(2))
    prompts = [told["usage"]["prompt_tokens"] for told in (blind, one, two)]
    assert prompts[1] - prompts[0] == prompts[2] - prompts[1] == 7  # four vectors, two markers, a line end
    assert len({told["text"] for told in (blind, one, two)}) > 1


def test_a_piped_chat_may_show_a_picture(program, seeing, picture):
    done = program("chat", seeing, "--image", picture(1), *GREEDY, stdin=b"hello")
    assert done.code == 0, done.err
    assert done.out


def test_a_model_that_reads_text_refuses_a_picture(program, picture):
    program("run", "nano", "-p", "hello", "--image", picture()).refused("reads text only", "MiniCPM-V")


def test_bad_pictures_are_refused_before_a_model_is_looked_for(program, tmp_path, picture):
    text = tmp_path / "photo.png"
    text.write_text("not a photo")
    whole = Path(picture()).read_bytes()
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole[: len(whole) // 2])
    for path, told in (
        (text, "whatever a file is called"),
        (cut, "cut off"),
        (tmp_path / "no", "cannot be read"),
    ):
        program("run", "no/such-model", "-p", "hello", "--image", str(path)).refused(told)


def test_raw_text_shows_no_picture(program, picture):
    program("run", "nano", "--raw", "-p", "hello", "--image", picture()).refused("--raw", "--image")


def test_the_first_question_shows_the_picture_and_the_next_does_not(chat, picture):
    model = ScriptedChat(["a cat", "yes"])
    talk, _ = chat(model, read_pictures([picture()]))
    talk.ask("what is it?")
    talk.ask("sure?")
    assert [kinds(message) for message in talk.conversation.messages] == [
        ["image_url", "text"],
        "text",
        "text",
        "text",
    ]


def unwrapped(output) -> str:
    """What was printed, without the line breaks that the length of a path decides."""
    return " ".join(output.getvalue().split())


def test_a_command_shows_a_picture_with_the_next_question(chat, picture):
    talk, output = chat(ScriptedChat(["a cat"]))
    run_command(talk, f"/image {picture()}")
    assert "The next question shows it." in unwrapped(output)
    talk.ask("what is it?")
    assert kinds(talk.conversation.messages[0]) == ["image_url", "text"]


def test_commands_refuse_what_is_no_picture(chat, tmp_path):
    talk, output = chat(ScriptedChat([]))
    run_command(talk, f"/image {tmp_path / 'none.png'}")
    run_command(talk, "/image")
    assert "cannot be read" in unwrapped(output)
    assert "/image FILE" in unwrapped(output)
    assert talk.conversation.waiting == []


def test_a_question_asked_again_shows_its_picture_again(chat, picture):
    model = ScriptedChat(["a cat", "a dog"])
    talk, _ = chat(model, read_pictures([picture()]))
    talk.ask("what is it?")
    run_command(talk, "/regenerate")
    assert model.calls[0].messages == model.calls[1].messages


def test_a_saved_chat_keeps_its_pictures(chat, picture, tmp_path):
    talk, _ = chat(ScriptedChat(["a cat"]), read_pictures([picture()]))
    talk.ask("what is it?")
    talk.conversation.save(tmp_path / "chat.json", {})
    other = Conversation(None, read_pictures([picture()]))
    other.load(tmp_path / "chat.json")
    assert other.messages == talk.conversation.messages
    assert other.waiting == []


def test_a_reset_puts_pictures_away(picture):
    conversation = Conversation("Be kind.", read_pictures([picture()]))
    conversation.reset()
    conversation.ask("hello")
    assert kinds(conversation.messages[1]) == "text"


@pytest.mark.parametrize("error", [MessageError("It reads text only."), BadImage("It is damaged.")])
def test_a_refused_picture_does_not_stay(chat, picture, error):
    class Refusing:
        def chat(self, messages, **options):
            raise error

    talk, output = chat(Refusing(), read_pictures([picture()]))
    talk.ask("what is it?")
    assert "The picture is put away." in unwrapped(output)
    assert talk.conversation.messages == talk.conversation.waiting == []
