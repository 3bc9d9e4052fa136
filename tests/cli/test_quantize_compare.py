"""`minicpm quantize` and `minicpm compare` do what they say, tell it, and refuse with a sentence."""

import json

import pytest

from minicpm.checkpoint import open_checkpoint
from minicpm.convert.quantizing import driver
from minicpm.convert.quantizing.events import LayerDone
from minicpm.testing import tiny_checkpoint

QUICK = ("--method", "rtn", "--group", "32")


@pytest.fixture
def text(tmp_path):
    """A text that toy tokenizers hold."""
    path = tmp_path / "text.txt"
    path.write_text("alpha beta gamma and the one two three of delta " * 40, encoding="utf-8")
    return str(path)


def test_a_model_is_quantized_and_its_quality_said(program, tiny, text, tmp_path):
    target = tmp_path / "out"
    done = program(
        "quantize", str(tiny), str(target), "--bits", "4", "--group", "32", "--calib", text, "--text", text
    )
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["MODEL", "PERPLEXITY", "WEIGHTS", "BITS", "PER", "WEIGHT"]
    assert any(line.startswith("divergence  mean") for line in lines)
    assert lines[-1] == str(target)
    assert [line.split()[:4] for line in done.err.splitlines()] == [["layer", i, "of", "3"] for i in "123"]
    report = json.loads((target / "quality.json").read_text())
    assert report["b"]["weight_bytes"] == open_checkpoint(target).total_bytes
    assert report["kl_mean"] > 0
    assert 0 < report["top1_agreement"] <= 1


def test_the_document_has_every_error(program, tiny, text, tmp_path):
    done = program("quantize", str(tiny), str(tmp_path / "out"), *QUICK, "--no-report", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["quality"] is None
    assert [layer["layer"] for layer in document["layers"]] == [0, 1, 2]
    assert all(len(layer["errors"]) == len(layer["bits"]) == 7 for layer in document["layers"])
    assert not (tmp_path / "out" / "quality.json").exists()


def test_patterns_and_budgets_come_from_the_command_line(program, tiny, tmp_path):
    folder = tmp_path / "out"
    done = program(
        "quantize", str(tiny), str(folder), *QUICK, "--bits", "3", "--no-report", "--asymmetric",
        "--bits-for", "*.down_proj=8", "--keep", "lm_head", "--keep", "*.layers.1.*",
    )  # fmt: skip
    assert done.code == 0, done.err
    raw = json.loads((folder / "config.json").read_text())["quantization_config"]
    packed = open_checkpoint(folder).packed
    assert raw["default"] == {"bits": 3, "group": 32, "symmetric": False}
    assert raw["modules"]["model.layers.0.mlp.down_proj"]["bits"] == 8
    assert len(packed) == 14
    assert not any("layers.1." in name or "embed" in name for name in packed)


def test_a_quantized_model_answers_and_is_compared(program, tiny, text, tmp_path):
    folder = tmp_path / "out"
    assert program("quantize", str(tiny), str(folder), *QUICK, "--bits", "8", "--no-report").code == 0
    assert program("run", str(folder), "-p", "hello", "--max-tokens", "4").code == 0
    done = program("compare", str(tiny), str(folder), "--text", text, "--json", "--dtype", "float32")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document["a"]["bits_per_weight"] > 16 > document["b"]["bits_per_weight"] > 8
    assert 0 < document["kl_mean"] < 0.01
    again = program("compare", str(folder), str(folder), "--text", text, "--json")
    assert json.loads(again.out)["kl_mean"] == 0
    assert json.loads(again.out)["top1_agreement"] == 1


def test_a_plot_is_drawn(program, tiny, text, tmp_path):
    plot = tmp_path / "kl.svg"
    done = program("compare", str(tiny), str(tiny), "--text", text, "--tokens", "300", "--plot", str(plot))
    assert done.code == 0, done.err
    assert plot.stat().st_size > 1000
    assert "same token  100.00%" in done.out


def test_models_of_other_vocabularies_are_not_compared(program, tiny, text, tmp_path):
    other = tiny_checkpoint("minicpm5-1b", tmp_path / "other")
    program("compare", str(tiny), str(other), "--text", text).refused("different vocabularies")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--method", "gtpq"], ["'gtpq' is not known", "Did you mean 'gptq'"]),
        (["--bits", "5"], ["8, 4, 3, 2", "5"]),
        (["--bits", "four"], ["'four' is not a whole number"]),
        (["--group", "half"], ["--group 'half'", "row"]),
        (["--group", "64", "--method", "rtn"], ["Groups of 64 do not divide", "down_proj", "--group 32"]),
        (["--bits-for", "*.down_proj"], ["is no pattern with bits"]),
        (["--keep", "*.donw_proj", *QUICK], ["Did you mean '*.down_proj'"]),
        (["--budget", "1.5"], ["A budget of 1.5"]),
        (["--bits", "4", "--budget", "4.5"], ["Give one of them"]),
        (["--method", "ternary"], ["are not ternary"]),
        (["--group", "32", "--calib", "none.txt"], ["none.txt does not exist"]),
        ([*QUICK, "--text", "none.txt"], ["comparison text none.txt does not exist"]),
        ([*QUICK, "--device", "gpu"], ["'gpu' is not known", "cuda"]),
        (["--methd", "rtn"], ["No such option", "--method"]),
    ],
    ids=str,
)
def test_what_cannot_be_quantized_is_refused_with_a_sentence(program, tiny, tmp_path, arguments, parts):
    program("quantize", str(tiny), str(tmp_path / "out"), *arguments).refused(*parts)
    assert not (tmp_path / "out").exists()


def test_a_full_target_is_left_alone(program, tiny, tmp_path):
    (tmp_path / "mine").write_text("mine")
    program("quantize", str(tiny), str(tmp_path), *QUICK).refused("is a folder that is not empty")


def test_ctrl_c_keeps_finished_layers_and_the_command_goes_on(program, tiny, tmp_path, monkeypatch):
    target, whole = tmp_path / "out", driver.quantize

    def stopped(*args, watch, **more):
        def both(event):
            watch(event)
            if isinstance(event, LayerDone) and event.index == 1:
                raise KeyboardInterrupt

        return whole(*args, watch=both, **more)

    monkeypatch.setattr(driver, "quantize", stopped)
    command = ("quantize", str(tiny), str(target), *QUICK, "--no-report")
    done = program(*command)
    assert done.code == 130
    assert "Finished layers are kept in" in done.err.splitlines()[-1]
    assert not target.exists()
    monkeypatch.setattr(driver, "quantize", whole)
    done = program(*command)
    assert done.code == 0
    assert done.err.splitlines()[0] == "2 of 3 layers were finished before; it goes on there."
    assert len(done.err.splitlines()) == 2
