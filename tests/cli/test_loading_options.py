"""--sparse and --weights on the command line."""

import pytest

from minicpm.testing import tiny_checkpoint


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_a_model_answers_in_every_mode(program, tiny, mode):
    assert program("run", str(tiny), "-p", "x", "--sparse", mode, "--max-tokens", "2").code == 0


@pytest.mark.parametrize("verb", ["chat", "run"])
def test_an_unknown_mode_is_refused_before_anything_is_fetched(program, verb):
    program(verb, "openbmb/MiniCPM4-8B", "--sparse", "maybe", stdin=b"hello").refused(
        "maybe", "auto, on, off"
    )


def test_ternary_weights_are_packed_when_asked_and_the_answer_is_the_same(program, tmp_path):
    folder = str(tiny_checkpoint("bitcpm4-0.5b", tmp_path / "ternary"))
    told = ("run", folder, "-p", "hello", "--temperature", "0", "--max-tokens", "4")
    plain, packed = (program(*told, "--weights", how) for how in ("plain", "packed"))
    assert packed.code == 0, packed.err
    assert packed.out == plain.out
    program(*told, "--weights", "small").refused("packed")
