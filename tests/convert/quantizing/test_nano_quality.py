"""On nano, calibrated rounding predicts held-out conversations better than rounding to the nearest does."""

from dataclasses import replace
from functools import cache

import pytest

from minicpm.checkpoint import load, open_checkpoint
from minicpm.convert.quality import Compared, compare
from minicpm.convert.quantizing.driver import quantize
from minicpm.convert.quantizing.recipe import Recipe

# Seeds that nano was not trained with. Few tokens, so that this is quick.
CALIBRATION, HELD_OUT = (7_101, 4_000), (7_102, 9_000)


@pytest.fixture(scope="module")
def nano_in_float32(nano):
    """The original; in float32, so that only weights differ and not how sums are rounded."""
    return Compared("nano", nano, load(nano, backend="torch", dtype="float32"))


@pytest.fixture(scope="module")
def quantized(nano, conversations, tmp_path_factory):
    """nano after a method at some bits, each made once."""
    root, calibration = tmp_path_factory.mktemp("nano"), conversations(*CALIBRATION)

    @cache
    def make(method, bits):
        target = root / f"{method}-{bits}"
        needed = None if method == "rtn" else calibration
        recipe = Recipe(method=method, bits=bits, group=64)
        written = open_checkpoint(quantize(nano, target, recipe, calibration=needed))
        return Compared(target.name, written, load(written, backend="torch", dtype="float32"))

    return make


@pytest.fixture(scope="module")
def answers(nano_in_float32, quantized, conversations):
    """A comparison on the answers of held-out conversations, which nano was trained to give."""
    text = conversations(*HELD_OUT)
    return cache(lambda method, bits: compare(nano_in_float32, quantized(method, bits), text))


@pytest.fixture(scope="module")
def divergence(nano_in_float32, quantized, conversations):
    """The mean divergence on all tokens of held-out conversations: answers alone hardly diverge."""
    text = replace(conversations(*HELD_OUT), counted=None)
    return cache(lambda method, bits: compare(nano_in_float32, quantized(method, bits), text).kl_mean)


def test_8_bits_leave_the_perplexity_within_a_thousandth(answers):
    found = answers("rtn", 8)
    assert abs(found.perplexity_ratio - 1) < 0.001
    assert found.top1 > 0.995


def test_4_bits_of_gptq_leave_the_perplexity_within_three_hundredths(answers):
    found = answers("gptq", 4)
    assert abs(found.perplexity_ratio - 1) < 0.03
    assert found.top1 > 0.98


@pytest.mark.parametrize("bits", [4, 3])
@pytest.mark.parametrize("method", ["gptq", "pgptq", "awq"])
def test_calibrated_weights_diverge_less(method, bits, divergence):
    assert divergence(method, bits) < divergence("rtn", bits)


def test_more_bits_diverge_less(divergence):
    assert divergence("rtn", 8) < divergence("gptq", 4) < divergence("gptq", 3)
