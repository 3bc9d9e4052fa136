"""Random models are held as loading would hold them, count what they take, and stay sane."""

import pytest
import torch

from minicpm.bench.noise import deviation_of_codes, fill_integers, fill_uniform, random_codes
from minicpm.bench.random_model import random_decoder
from minicpm.bench.shapes import published_shape, with_layers
from minicpm.bench.weights import HOLDING, footprint, held_bits
from minicpm.checkpoint import load, open_checkpoint
from minicpm.checkpoint.building import blank
from minicpm.config import parameter_count
from minicpm.layers.quant_linear import QuantLinear
from minicpm.ops.quant_tensor import unpack_codes
from minicpm.testing import tiny_checkpoint

WEIGHTS = list(HOLDING)


def matrix_bytes(decoder):
    matrices = [module for module in decoder.modules() if isinstance(module, QuantLinear)]
    plain = [parameter for parameter in decoder.parameters() if parameter.ndim == 2]
    return sum(m.packed.nbytes for m in matrices) + sum(p.nbytes for p in plain)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_footprint_is_what_a_random_model_holds(each, weights):
    assert footprint(each.config, weights).nbytes == matrix_bytes(random_decoder(each.config, weights))


def test_the_footprint_counts_every_weight_but_norms():
    config = published_shape("MiniCPM-MoE-8x2B").config
    held = footprint(config, "bf16")
    count = (held.shared + held.experts + held.head + held.embedding).count
    norms = config.hidden * (2 * len(config.layers) + 1)
    assert count + norms == parameter_count(config)


@pytest.mark.parametrize(("weights", "family"), [("int8", "minicpm4-0.5b"), ("int4", "minicpm3-4b")])
def test_the_same_matrices_are_held_in_codes_as_by_loading(weights, family, toy, tmp_path):
    loaded = load(open_checkpoint(tiny_checkpoint(family, tmp_path)), weights=weights, prepare=False)
    random = random_decoder(toy(family).config, weights)

    def schemes(model):
        return {n: (m.scheme, m.codes.shape) for n, m in model.named_modules() if isinstance(m, QuantLinear)}

    assert schemes(random) == schemes(loaded)
    assert schemes(random).keys() == held_bits(blank(toy(family).config), weights).keys()


@pytest.mark.parametrize("weights", WEIGHTS)
def test_activations_neither_vanish_nor_overflow(each, weights):
    decoder = random_decoder(each.config, weights)
    decoder.prepare("torch")
    with torch.inference_mode():
        logits = decoder.logits_for(torch.arange(40) % each.config.vocab)
    assert 0.05 < logits.std() < 20


def test_activations_of_a_deep_model_stay_near_one():
    decoder = random_decoder(with_layers(published_shape("MiniCPM-1B"), 6).config, "ternary")
    seen = []
    for layer in decoder.model.layers:
        layer.register_forward_hook(lambda module, args, out: seen.append(float(out.float().std())))
    with torch.inference_mode():
        decoder.logits_for(torch.arange(8))
    assert all(0.3 < std < 10 for std in seen), seen


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_random_codes_have_mean_zero_and_the_deviation_that_is_said(bits):
    generator = torch.Generator().manual_seed(0)
    packed = random_codes(1 << 16, bits, generator).view(64, -1)
    codes = unpack_codes(packed, bits, packed.shape[1] * 8 // bits).float()
    assert codes.min() == 1
    assert codes.max() == 2**bits - 1
    numbers = codes - 2 ** (bits - 1)
    assert abs(numbers.mean()) < 0.02 * deviation_of_codes(bits)
    assert numbers.std() == pytest.approx(deviation_of_codes(bits), rel=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_noise_fills_all_of_a_tensor_with_its_deviation(dtype):
    noise = torch.full((1001, 3), float("nan"), dtype=dtype)
    fill_uniform(noise, 0.5, torch.Generator().manual_seed(0))
    assert noise.float().std() == pytest.approx(0.5, rel=0.05)
    assert abs(noise.float().mean()) < 0.05


def test_integers_fill_all_values_of_a_byte():
    numbers = torch.zeros(1 << 14, dtype=torch.int8)
    fill_integers(numbers, torch.Generator().manual_seed(0))
    assert (numbers.min(), numbers.max()) == (-128, 127)
