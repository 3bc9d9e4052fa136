"""Help, names and completion of the program: quick, light and forgiving."""

import json
import os
import resource
import sys
from pathlib import Path

import pytest

from minicpm.cli.app import Verbs
from minicpm.cli.verbs.train import Models

HELP_CPU_S = 0.3
"""What `--help` may take at most. Processor time, since wall time also counts who else is busy here."""

HEAVY = {"torch", "transformers", "tokenizers", "huggingface_hub", "numpy", "safetensors", "pydantic"}
HEAVY |= {"prompt_toolkit", "rich", "matplotlib", "jinja2"}
VERBS = [[], *([verb] for verb in Verbs.verbs), ["train", "nano"]]

LOADED = """
import json, sys
from minicpm.cli.app import run
code = run(sys.argv[1:])
sys.stdout.flush()
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


def ids(arguments):
    return " ".join(arguments) or "minicpm"


@pytest.mark.parametrize("arguments", VERBS, ids=ids)
def test_help_imports_nothing_heavy(arguments, start):
    done = start(*arguments, "--help", program=("-c", LOADED)).finish()
    code, modules = json.loads(done.err.splitlines()[-1])
    assert code == 0
    assert done.out.startswith("Usage: minicpm " + " ".join(arguments))
    assert not HEAVY.intersection(modules)


@pytest.mark.parametrize("arguments", [[], ["chat"]], ids=ids)
def test_help_is_quick(arguments, start):
    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert start(*arguments, "--help").finish().code == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < HELP_CPU_S


def test_every_verb_is_a_module_with_a_sentence_and_none_is_missing():
    import minicpm.cli.verbs

    found = {path.stem for path in Path(minicpm.cli.verbs.__file__).parent.glob("*.py")} - {"__init__"}
    assert found == {*Verbs.verbs, *(f"train_{model}" for model in Models.verbs)}
    sentences = [*Verbs.verbs.values(), *Models.verbs.values()]
    assert all(sentence.endswith(".") and sentence[0].isupper() for sentence in sentences)


def test_without_arguments_the_help_is_printed(program):
    done = program()
    assert done.code == 0
    assert done.out.startswith("Usage: minicpm")
    assert program("train").out.startswith("Usage: minicpm train")


def test_the_version_is_printed(program):
    from minicpm import __version__

    assert program("--version").out == f"minicpm {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "suggested"),
    [
        (["cht"], "'chat'"),
        (["modls"], "'models'"),
        (["train", "nani"], "'nano'"),
        (["chat", "--temprature", "1"], "--temperature"),
    ],
)
def test_a_slip_is_refused_with_the_nearest_name(arguments, suggested, program):
    program(*arguments).refused(suggested)


def test_an_option_comes_from_the_environment_as_well(program, monkeypatch):
    monkeypatch.setenv("MINICPM_RUN_MAX_TOKENS", "0")
    program("run", "nano", "-p", "x").refused("max_tokens")


def test_a_sampling_option_is_explained_by_the_field_of_the_python_api(program):
    from minicpm.cli.options import field_docs
    from minicpm.engine.sampling import SamplingParams

    text = " ".join(program("chat", "--help").out.split())
    for name in ("temperature", "top_k", "seed"):
        assert field_docs(SamplingParams)[name] in text


def test_debug_shows_the_traceback_wherever_it_stands(program):
    for arguments in (["--debug", "pull", "x"], ["pull", "x", "--debug"]):
        done = program(*arguments)
        assert done.code == 2
        assert "Traceback" in done.err
    assert "Traceback" not in program("pull", "x").err


def test_a_mistake_of_the_program_is_named_as_one(start):
    planted = (
        "import minicpm.cli.verbs.models as m, sys, minicpm.cli.main as p\nm._rows = lambda: 1 / 0\np.main()"
    )
    done = start("models", program=("-c", planted)).finish()
    assert done.code == 1
    assert "ZeroDivisionError" in done.err
    assert "a mistake in minicpm" in done.err
    assert "Traceback" not in done.err
    assert "Traceback" in start("models", "--debug", program=("-c", planted)).finish().err


@pytest.mark.parametrize(
    ("words", "position", "expected"),
    [
        ("minicpm ", 1, "chat"),
        ("minicpm s", 1, "show"),
        ("minicpm chat na", 2, "nano"),
        ("minicpm chat --temp", 2, "--temperature"),
    ],
)
def test_a_shell_completes_verbs_options_and_models(words, position, expected, start):
    environment = os.environ | {
        "_MINICPM_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(position),
    }
    done = start(env=environment).finish()
    assert done.code == 0, done.err
    assert expected in done.out.split()


def test_completion_is_shown_and_installed(start, tmp_path):
    environment = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = start("--show-completion", "bash", env=environment).finish()
    assert "_MINICPM_COMPLETE=complete_bash" in shown.out
    installed = start("--install-completion", "bash", env=environment).finish()
    assert installed.code == 0, installed.err
    assert "minicpm" in (tmp_path / "home" / ".bashrc").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_an_output_that_cannot_be_written_is_a_sentence(start):
    with open("/dev/full", "wb") as full:
        running = start(
            "models",
            program=("-c", _TO_FULL),
            env=os.environ | {"FULL": str(full.fileno())},
            pass_fds=[full.fileno()],
        )
        done = running.finish()
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert "No space left on device" in done.err


_TO_FULL = """
import os, sys
os.dup2(int(os.environ["FULL"]), 1)
from minicpm.cli.main import main
main()
"""


def test_a_reader_that_goes_away_ends_the_program_quietly(start):
    running = start("models", "--json")
    running.process.stdout.close()
    running.process.stdin.close()
    error = running.process.stderr.read()
    assert running.process.wait(30) == 141
    assert error == b""
    running.process.stdin = running.process.stdout = None


def test_closed_streams_are_no_traceback(start):
    closing = (
        "import os, sys\n"
        "for fd in (0, 1): os.close(fd)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'minicpm', *sys.argv[1:]])"
    )
    assert start("models", program=("-c", closing)).finish().code == 0
    start("chat", program=("-c", closing)).finish().refused("empty")
