"""--sparse and --weights on the command line."""

import re

import pytest

from minicpm.ops import native
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


def test_keys_and_values_are_held_in_eight_bits_when_asked(program, tmp_path):
    if native.absence() is not None:
        pytest.skip("needs the compiled part: install from source with a C++ compiler")
    folder = str(tiny_checkpoint("minicpm4-0.5b", tmp_path / "tiny", dtype="bfloat16"))
    told = ("run", folder, "-p", "hello", "--temperature", "0", "--max-tokens", "4", "--context", "512")
    plain, rounded = program(*told), program(*told, "--kv", "int8")
    assert rounded.code == plain.code == 0, rounded.err
    plain_bytes, rounded_bytes = (cache_said(run.err) for run in (plain, rounded))
    assert rounded_bytes / plain_bytes == (16 + 4) / (2 * 16)  # the toy's heads are 16 wide


def cache_said(text):
    """The KiB of cache that a run said it takes."""
    return float(re.search(r"([\d.]+) KiB of cache", text)[1])


@pytest.mark.parametrize("verb", ["chat", "run"])
def test_an_unknown_kv_is_refused_before_anything_is_fetched(program, verb):
    program(verb, "openbmb/MiniCPM4-8B", "--kv", "int5", stdin=b"hello").refused("int5", "auto, int8")


def test_eight_bits_on_another_backend_are_refused_with_what_helps(program, tiny):
    program("run", str(tiny), "-p", "x", "--kv", "int8", "--backend", "torch").refused("Leave kv at auto")
