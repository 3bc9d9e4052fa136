"""Leaving out neurons whose gate is zero changes no bit, and little from a matrix product."""

import pytest
import torch

from minicpm.ops.activations import fatrelu
from minicpm.ops.sparse_ffn import gated_sum, reference

# Sums of up to 400 float32 products in another order; measured at most 3e-7 of the largest output.
FLOAT32 = 2e-6
# One rounding to 8 bits of results and of each neuron's product.
BFLOAT16 = 2**-7

EITHER_DTYPE = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
EVERY_SHAPE = pytest.mark.parametrize(
    ("width", "neurons", "share"),
    [(1, 1, 1.0), (7, 3, 0.5), (24, 100, 0.12), (64, 96, 0.0), (100, 400, 0.12), (96, 257, 1.0)],
)


def feed_forward(width, neurons, share, dtype):
    """x, a gate of which about `share` is above zero, up and down with one neuron per row."""
    generator = torch.Generator().manual_seed(width * neurons)
    x, gate = torch.randn(width, generator=generator), torch.rand(neurons, generator=generator) + 0.01
    gate[torch.rand(neurons, generator=generator) >= share] = 0
    up, down = (torch.randn(neurons, width, generator=generator) / width**0.5 for _ in range(2))
    return [part.to(dtype) for part in (x, gate, up, down)]


def largest_difference(found, wanted):
    return (found - wanted).abs().max() / wanted.abs().max().clamp_min(1)


@EITHER_DTYPE
@EVERY_SHAPE
def test_the_sum_over_active_neurons_has_the_bits_of_the_sum_over_all(width, neurons, share, dtype):
    """All are active for a gate whose zeros are replaced, and weights of zero instead: the dense form."""
    x, gate, up, down = feed_forward(width, neurons, share, dtype)
    inactive = gate == 0
    filled = torch.where(inactive, 1, gate)
    dense = gated_sum(x, filled, up.masked_fill(inactive[:, None], 0), down)
    assert torch.equal(gated_sum(x, gate, up, down), dense)


@EITHER_DTYPE
@EVERY_SHAPE
def test_neurons_are_summed_one_after_the_other(width, neurons, share, dtype):
    """Bit for bit the reference's order, with one rounding per multiply-add or with two."""
    x, gate, up, down = feed_forward(width, neurons, share, dtype)
    inner = gate * (up.float() * x.float()).sum(-1).to(dtype)
    fused = torch.zeros(width)
    for a, row in zip(inner.double(), down.double(), strict=True):
        fused = (fused.double() + a * row).float()
    found = gated_sum(x, gate, up, down)
    assert torch.equal(found, fused.to(dtype)) or torch.equal(found, reference.gated_sum(x, gate, up, down))


@EITHER_DTYPE
@EVERY_SHAPE
def test_both_forms_are_near_the_matrix_products(width, neurons, share, dtype):
    parts = feed_forward(width, neurons, share, dtype)
    x, gate, up, down = (part.double() for part in parts)
    exact = (gate * (up @ x)) @ down
    bound = FLOAT32 if dtype == torch.float32 else BFLOAT16
    for form in (gated_sum, reference.gated_sum):
        assert largest_difference(form(*parts).double(), exact) <= bound


def test_weights_of_inactive_neurons_are_not_read():
    x, gate, up, down = feed_forward(24, 100, 0.12, torch.float32)
    wanted = gated_sum(x, gate, up, down)
    up[gate == 0], down[gate == 0] = torch.nan, torch.nan
    assert torch.equal(gated_sum(x, gate, up, down), wanted)


@EITHER_DTYPE
def test_fatrelu_keeps_what_is_strictly_above_its_threshold(dtype):
    edge = torch.tensor(0.25)  # exact in every dtype
    above, below = torch.nextafter(edge, torch.tensor(1.0)), torch.nextafter(edge, torch.tensor(0.0))
    x = torch.stack([edge, above, below, torch.tensor(3.0), torch.tensor(-3.0)]).to(dtype)
    wanted = [0.0, above.item() if dtype == torch.float32 else 0.0, 0.0, 3.0, 0.0]
    assert fatrelu(x, 0.25).tolist() == wanted
    assert fatrelu(x, 0.25).dtype == dtype


def test_a_threshold_is_not_rounded_to_the_dtype_of_the_values():
    """0.01 is no bfloat16; its neighbour above is larger than 0.01 and stays."""
    x = torch.tensor([0.01], dtype=torch.bfloat16)
    assert x.item() > 0.01
    assert torch.equal(fatrelu(x, 0.01), x)


def test_fatrelu_passes_the_gradient_of_what_it_keeps():
    x = torch.tensor([-1.0, 0.005, 0.02, 2.0], requires_grad=True)
    fatrelu(x, 0.01).sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 1]
