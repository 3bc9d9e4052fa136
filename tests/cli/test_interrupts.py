"""Ctrl-C at every stage is one line, exit code 130, and leaves nothing half done."""

import signal
import sys
import time

import pytest

from minicpm.cli.failures import Interrupted, stage
from minicpm.cli.talk.interrupts import Interrupts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")

LONG = ("--max-tokens", "30000", "--ignore-eos")


def stopped(running, *parts):
    done = running.finish()
    assert done.code == 130, (done.code, done.err)
    assert len(done.err.strip().splitlines()) == 1, done.err
    for part in parts:
        assert part in done.err
    return done


# Says when the program begins: before that Ctrl-C meets Python itself.
BEGINNING = "from minicpm.cli.main import main; import sys; print(file=sys.stderr, flush=True); main()"


def test_while_standard_input_is_read(start):
    running = start("chat", program=("-c", BEGINNING))
    running.process.stderr.readline()
    time.sleep(0.5)
    running.interrupt()
    stopped(running, "Stopped")


def test_while_torch_is_imported(start, tiny):
    running = start("run", str(tiny), "-p", "hello", program=("-c", BEGINNING))
    running.process.stderr.readline()
    time.sleep(0.6)
    running.interrupt()
    stopped(running, "Stopped")


def test_while_an_answer_is_written(start, tiny):
    running = start("run", str(tiny), "-p", "hello", *LONG)
    first = running.process.stdout.read(1)
    running.interrupt()
    done = stopped(running, "Stopped.")
    assert (first + done.out.encode()).endswith(b"\n")


def test_while_a_prompt_is_read_by_the_model(program, tiny, monkeypatch):
    from minicpm.models.decoder import Decoder

    real = Decoder.forward
    batches = []

    def forward(self, batch):
        batches.append(batch)
        if len(batches) == 2:
            press()
        return real(self, batch)

    monkeypatch.setattr(Decoder, "forward", forward)
    done = program("run", str(tiny), "-p", "word " * 4000, "--max-tokens", "3")
    assert done.code == 130
    assert done.err == "Stopped.\n"
    assert done.out == ""
    assert len(batches) == 2, "a prompt of several chunks"


def test_while_a_model_is_pulled_what_was_fetched_is_kept(start, hub, program):
    hub.pause.clear()
    running = start("pull", hub.name)
    assert hub.asked.wait(30)
    running.interrupt()
    stopped(running, "What was fetched is kept", f"minicpm pull {hub.name}")
    assert "partial" in program("list").out
    hub.pause.set()
    assert program("pull", hub.name).code == 0
    assert "partial" not in program("list").out


def test_while_a_model_is_loaded(program, tiny, monkeypatch):
    def loading(*args, **options):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("minicpm.engine.api.load", loading)
    done = program("run", str(tiny), "-p", "x")
    assert (done.code, done.err) == (130, f"Stopped before {tiny} was loaded.\n")


def test_while_weights_are_converted(program, tiny, tmp_path, monkeypatch):
    def converting(*args, **options):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("minicpm.checkpoint.bins.convert_bin", converting)
    done = program("convert", str(tiny), str(tmp_path / "new"))
    assert (done.code, done.err) == (130, f"Stopped. Nothing was written to {tmp_path / 'new'}.\n")


def press():
    signal.raise_signal(signal.SIGINT)


def swallow():
    try:
        press()
    except KeyboardInterrupt:
        pass


def half_import():
    try:
        press()
    except KeyboardInterrupt as stop:
        raise ImportError("half of a library") from stop


@pytest.mark.parametrize("work", [press, swallow, half_import])
def test_whatever_a_library_makes_of_an_interrupt_it_stays_one(work):
    with pytest.raises(Interrupted, match="so far"), stage("so far"):
        work()


def test_a_swallowed_interrupt_is_raised_by_the_next_check():
    def work(running):
        swallow()
        running.check()
        pytest.fail("the check raises")

    with pytest.raises(Interrupted), stage("so far") as running:
        work(running)


def test_an_inner_stage_speaks_for_the_outer_one():
    with pytest.raises(Interrupted, match="inner"), stage("outer"), stage("inner"):
        press()


def test_the_first_interrupt_is_noted_and_the_second_one_raised():
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        press()
        assert interrupts.came
        with pytest.raises(KeyboardInterrupt):
            press()
    assert signal.getsignal(signal.SIGINT) is before
