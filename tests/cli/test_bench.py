"""`minicpm bench` prints a table or a document, refuses with a sentence, and keeps what Ctrl-C found."""

import json

import pytest

from minicpm.bench import limits, measuring
from minicpm.ops import native

QUICK = ("--prompt", "16", "--context", "0,64", "--repeats", "1")


@pytest.fixture(autouse=True)
def small_block(monkeypatch):
    """Limits from a small block."""
    monkeypatch.setattr(limits, "_BLOCK", 1 << 20)
    monkeypatch.setattr(limits, "_PASSES", 1)
    monkeypatch.setattr(limits, "_product_rates", lambda: [1e9])


def test_a_model_is_measured_with_its_own_weights(program, tiny):
    done = program("bench", str(tiny), "--weights", "bf16,int8", "--batch", "1,2", *QUICK)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "tiny, 3 layers, its own weights"
    assert "GB/s" in lines[1]
    assert [line.split()[:4] for line in lines if line.startswith("decode")] == [
        ["decode", weights, context, batch]
        for weights in ("bf16", "int8")
        for batch in "12"
        for context in ("0", "64")
    ]
    assert sum(line.startswith("prefill") for line in lines) == 2


def test_json_is_one_document_on_one_line(program, tiny):
    done = program("bench", str(tiny), "--layers", "2", "--weights", "int4", *QUICK, "--json")
    assert done.code == 0, done.err
    (line,) = done.out.splitlines()
    document = json.loads(line)
    assert document.keys() == {"limits", "checks", "rows"}
    assert [(row["work"], row["context"], row["layers"]) for row in document["rows"]] == [
        ("prefill", 16, 2),
        ("decode", 0, 2),
        ("decode", 64, 2),
    ]


def test_keys_and_values_are_held_in_eight_bits_when_asked(program):
    if native.absence() is not None:
        pytest.skip("needs the compiled part: install from source with a C++ compiler")
    asked = ("bench", "--shape", "minicpm4-0.5b", "--layers", "1", "--kv", "int8", *QUICK)
    done = program(*asked, "--json")
    assert done.code == 0, done.err
    assert {row["kv"] for row in json.loads(done.out)["rows"]} == {"int8"}
    assert program(*asked).out.startswith("MiniCPM4-0.5B, 1 layers, random weights, keys and values in int8")


def test_a_shape_has_random_weights(program):
    done = program("bench", "--shape", "minicpm4-0.5b", "--layers", "1", *QUICK)
    assert done.code == 0, done.err
    assert done.out.startswith("MiniCPM4-0.5B, 1 layers, random weights")


def test_a_plot_is_drawn(program, tiny, tmp_path):
    done = program("bench", str(tiny), *QUICK, "--plot", str(tmp_path / "speed.svg"))
    assert done.code == 0, done.err
    assert (tmp_path / "speed.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--shape", "MiniCPM9"], ["'MiniCPM9' is not known", "MiniCPM4-0.5B", "SALA-9B"]),
        (["--layers", "25"], ["25 layers", "1 to 24"]),
        (["--shape", "MiniCPM3-4B", "--sparse", "on"], ["Sparse attention was asked for"]),
        (["--sparse", "maybe"], ["'maybe' is not known"]),
        (["--weights", "int3"], ["'int3'", "ternary"]),
        (["--context", "many"], ["--context", "'many'"]),
        (["--prompt", "0"], ["a prompt of 0 tokens"]),
        (["--threads", "0"], ["0 threads"]),
        (["--plot", "speed"], [".png"]),
        (["nano", "--shape", "MiniCPM-1B"], ["Give one of them"]),
        (
            ["--shape", "MiniCPM4-8B", "--context", "99999999", "--batch", "64"],
            ["GiB", "nothing is measured"],
        ),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused_with_a_sentence(program, arguments, parts):
    program("bench", *arguments).refused(*parts)


def test_ctrl_c_prints_what_was_measured(program, tiny, monkeypatch):
    whole = measuring.measure

    def stopped(plan, **more):
        for event in whole(plan, **more):
            yield event
            if isinstance(event, measuring.Row):
                raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "measure", stopped)
    done = program("bench", str(tiny), *QUICK)
    assert done.code == 130
    assert done.err == "Stopped. What was measured until then is complete.\n"
    assert sum(line.startswith("prefill") for line in done.out.splitlines()) == 1
    assert "decode" not in done.out
