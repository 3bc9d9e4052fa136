"""Layers follow the published formulas, call their projections as modules, and fuse only when prepared."""

import math

import pytest
import torch
from torch.nn.functional import silu

from minicpm.cache import Batch
from minicpm.config import GQA, DefaultRope, Dense, LayerConfig, ModelConfig
from minicpm.layers.attention import Attention
from minicpm.layers.block import Block
from minicpm.layers.fused import stack
from minicpm.layers.mlp import MLP
from minicpm.layers.norm import RMSNorm
from minicpm.layers.quant_linear import QuantLinear
from minicpm.layers.step import Step
from minicpm.ops.backend import REFERENCE, TORCH
from minicpm.ops.quant_tensor import QuantTensor, Scheme, pack_codes
from minicpm.ops.rope import rope_angles

HIDDEN = 24
MIXERS = [GQA(1, 1, 8), GQA(4, 4, 6), GQA(4, 2, 10), GQA(8, 1, 4)]
LENGTHS = [[1], [63], [64], [65], [129], [1, 65, 3], [20, 20, 20, 5, 20]]

# The same float32 sums in another order; measured at most 4e-7, on gradients.
FLOAT32 = 1e-5


def config_of(mixer, **changes):
    settings = {
        "family": "toy",
        "hidden": HIDDEN,
        "vocab": 11,
        "layers": (LayerConfig(mixer, Dense(40)),),
        "rope": DefaultRope(1e4, mixer.head_dim),
        "context": 512,
        "norm_eps": 1e-5,
        "embed_scale": 1.0,
        "residual_scale": 0.3,
        "logit_scale": 1.0,
        "tied": True,
        "dtype": "float32",
        "bos": 1,
        "eos": (2,),
        "pad": None,
    }
    return ModelConfig(**settings | changes)


def block_of(mixer, seed=0):
    torch.manual_seed(seed)
    block = Block(config_of(mixer), 0)
    with torch.no_grad():
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            norm.weight.normal_(1, 0.1)
    return block


def step_for(mixer, lengths, ops):
    batch = Batch.of_sequences(*(torch.zeros(n, dtype=torch.int64) for n in lengths))
    return Step(
        ops, rope_angles(DefaultRope(1e4, mixer.head_dim), batch.positions), batch.segments, None, None
    )


def stream(lengths, width=HIDDEN):
    return torch.randn(sum(lengths), width, generator=torch.Generator().manual_seed(1))


def run_with_gradients(mixer, lengths, ops):
    block, h = block_of(mixer), stream(lengths).requires_grad_()
    out = block(h, step_for(mixer, lengths, ops))
    out.square().sum().backward()
    return {"output": out.detach(), "input": h.grad} | {n: p.grad for n, p in block.named_parameters()}


@pytest.mark.parametrize("mixer", MIXERS, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_a_block_on_torch_equals_the_reference_with_all_its_gradients(mixer, lengths):
    found, wanted = (run_with_gradients(mixer, lengths, ops) for ops in (TORCH, REFERENCE))
    for name, value in wanted.items():
        # A lone position's gradients on q_proj and k_proj are exactly 0 and come out as rounding.
        difference = (found[name] - value).abs().max() / value.abs().max().clamp_min(1)
        assert difference <= FLOAT32, f"{name} differs by {difference:.2e}"


@pytest.mark.parametrize("mixer", MIXERS, ids=str)
def test_a_block_follows_the_published_formula(mixer):
    """Written out for one sequence of 7 tokens, head by head, in float64."""
    block, h = block_of(mixer).double(), stream([7]).double()
    step = step_for(mixer, [7], REFERENCE)

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    def turned(x):  # [7, heads, d]
        half = mixer.head_dim // 2
        angle = torch.arange(7)[:, None] * 1e4 ** (-torch.arange(half, dtype=torch.float64) / half)
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        low, high = x[..., :half], x[..., half:]
        return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)

    attention, a = block.self_attn, norm(h, block.input_layernorm.weight)
    q, k, v = (
        (a @ p.weight.T).view(7, -1, mixer.head_dim)
        for p in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    q, k = turned(q), turned(k)
    mixed = torch.zeros_like(q)
    for head in range(mixer.heads):
        group = head // (mixer.heads // mixer.kv_heads)
        for t in range(7):
            weights = (k[: t + 1, group] @ q[t, head] / math.sqrt(mixer.head_dim)).softmax(0)
            mixed[t, head] = weights @ v[: t + 1, group]
    middle = h + 0.3 * (mixed.flatten(1) @ attention.o_proj.weight.T)
    b = norm(middle, block.post_attention_layernorm.weight)
    gate, up = b @ block.mlp.gate_proj.weight.T, b @ block.mlp.up_proj.weight.T
    wanted = middle + 0.3 * ((silu(gate) * up) @ block.mlp.down_proj.weight.T)
    # Norm, rotation and softmax of the layer run in float32.
    assert torch.allclose(block(h, step), wanted, atol=1e-5)


def test_unprepared_layers_call_their_projections():
    """What hooks into a projection (LoRA, tracing) must see every call."""
    mixer = GQA(4, 2, 6)
    block, called = block_of(mixer), []
    for name, module in block.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda *_, name=name: called.append(name.rpartition(".")[2]))
    block(stream([3]), step_for(mixer, [3], TORCH))
    assert called == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize("mixer", MIXERS, ids=str)
def test_preparing_a_block_changes_its_output_by_rounding_at_most(mixer):
    block, h = block_of(mixer), stream([33])
    step = step_for(mixer, [33], TORCH)
    before = block(h, step)
    block.prepare()
    assert torch.allclose(block(h, step), before, atol=1e-6)


def test_fused_projections_are_views_of_one_matrix_under_their_own_names():
    attention = Attention(HIDDEN, GQA(4, 2, 6), layer=0)
    before = {name: weight.clone() for name, weight in attention.state_dict().items()}
    attention.prepare()
    after = attention.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    storage = attention.fused.untyped_storage().data_ptr()
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    assert all(part.weight.untyped_storage().data_ptr() == storage for part in parts)


def test_loading_into_a_prepared_layer_reaches_the_fused_matrix():
    mlp, other = MLP(HIDDEN, Dense(40)), MLP(HIDDEN, Dense(40))
    mlp.prepare()
    mlp.load_state_dict(other.state_dict())
    x = stream([5])
    assert torch.allclose(mlp(x), other(x), atol=1e-6)


def test_fusing_keeps_rows_in_order():
    linears = [torch.nn.Linear(3, n, bias=False) for n in (2, 5, 1)]
    wanted = torch.cat([linear.weight.detach().clone() for linear in linears])
    assert torch.equal(stack(linears), wanted)


def test_a_norm_starts_as_identity_on_unit_vectors():
    x = torch.ones(2, 16)
    assert torch.allclose(RMSNorm(16, 1e-12)(x, TORCH), x)


def packed_projection(out, bits, *, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (out, 32), generator=generator)
    scales = torch.rand(out, 1, generator=generator).to(dtype)
    return QuantLinear(QuantTensor(pack_codes(codes, bits), scales, None, Scheme(bits, 32)))


def test_projections_packed_in_different_bits_are_fused_in_the_widest():
    mlp = MLP(32, Dense(40))
    mlp.gate_proj, mlp.up_proj = packed_projection(40, 3), packed_projection(40, 8)
    x = stream([5], 32)
    before = mlp(x)
    mlp.prepare()
    assert mlp.fused.scheme.bits == 8
    assert torch.allclose(mlp(x), before, atol=1e-6)
    assert mlp.gate_proj.packed.codes.data_ptr() == mlp.fused.codes.data_ptr()


def test_projections_that_no_one_matrix_holds_stay_apart():
    mlp = MLP(32, Dense(40))
    mlp.gate_proj = packed_projection(40, 4)
    x = stream([5], 32)
    before = mlp(x)
    mlp.prepare()
    assert mlp.fused is None
    assert torch.equal(mlp(x), before)
