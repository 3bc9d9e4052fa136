"""--sparse on the command line."""

import pytest


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_a_model_answers_in_every_mode(program, tiny, mode):
    assert program("run", str(tiny), "-p", "x", "--sparse", mode, "--max-tokens", "2").code == 0


@pytest.mark.parametrize("verb", ["chat", "run"])
def test_an_unknown_mode_is_refused_before_anything_is_fetched(program, verb):
    program(verb, "openbmb/MiniCPM4-8B", "--sparse", "maybe", stdin=b"hello").refused(
        "maybe", "auto, on, off"
    )
