"""A projection gives the rows of each adapter its update, and all other rows exactly what it gave before."""

import copy

import pytest
import torch
from torch import nn

from minicpm.cache import Segment
from minicpm.errors import BadParameter
from minicpm.layers.fused import project, stack
from minicpm.layers.lora import Adapters, Directional, LowRank, adapted, make_adaptable, weight_with
from minicpm.layers.quant_linear import QuantLinear
from minicpm.ops.quant_tensor import QuantTensor, Scheme, pack_codes
from minicpm.ops.rows import pad_rows

INPUTS, OUTPUTS, RANK = 24, 20, 3

# Sums of float32 in another order over 24 terms; measured at most 5e-7.
FLOAT32 = 1e-5

SEGMENTS = {
    "base alone": [(7, None)],
    "one adapter alone": [(7, "a")],
    "neighbours": [(3, "a"), (2, "b"), (5, None)],
    "interleaved": [(3, "a"), (1, None), (2, "b"), (4, "a"), (1, "b"), (1, None)],
    "one row each": [(1, "b"), (1, "a"), (1, None)],
    "empty segment": [(0, "a"), (4, None), (3, "b")],
    "an adapter that leaves this projection alone": [(3, "elsewhere"), (2, "a"), (1, None)],
}


def update_of(seed, *, dora, weight):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(RANK, INPUTS, generator=generator)
    b = torch.randn(OUTPUTS, RANK, generator=generator)
    low_rank = LowRank(a, b, 0.7)
    return Directional.of(low_rank, torch.rand(OUTPUTS, generator=generator), weight) if dora else low_rank


@pytest.fixture
def model():
    """A holder of one projection with a plain adapter `a` and one with magnitudes `b`."""
    torch.manual_seed(0)
    holder = nn.ModuleDict({"proj": nn.Linear(INPUTS, OUTPUTS, bias=False)})
    holder.adapters = Adapters({"a", "b", "elsewhere"})
    projection = make_adaptable(holder, "proj", holder.adapters)
    projection.updates["a"] = update_of(1, dora=False, weight=projection.weight)
    projection.updates["b"] = update_of(2, dora=True, weight=projection.weight)
    return holder


def segments_of(plan):
    return [Segment(None, 0, count, adapter) for count, adapter in plan]


def by_loops(projection, x, plan):
    """Each row by itself: W x, then W x + s B (A x), then the gain of each output."""
    rows, wanted = iter(x), []
    for count, adapter in plan:
        for _ in range(count):
            row = next(rows)
            out = projection.weight @ row
            update = projection.updates.get(adapter)
            if isinstance(update, LowRank):
                out = out + update.scale * (update.b @ (update.a @ row))
            elif update is not None:
                low = update.low_rank
                out = (projection.weight + low.scale * low.b @ low.a) @ row * update.gain
            wanted.append(out)
    return torch.stack(wanted)


@pytest.mark.parametrize("plan", SEGMENTS.values(), ids=SEGMENTS)
@pytest.mark.parametrize("multiple", [1, 4])
@torch.no_grad()
def test_rows_get_their_adapter_and_others_keep_their_bits(model, plan, multiple):
    projection, total = model["proj"], sum(count for count, _ in plan)
    x = pad_rows(torch.randn(total, INPUTS), multiple)
    base = projection(x)
    with model.adapters.routed(segments_of(plan), x.device):
        found = projection(x)
    assert torch.allclose(found[:total], by_loops(projection, x[:total], plan), atol=FLOAT32)
    names = [name for count, name in plan for _ in range(count)]
    untouched = [i for i, name in enumerate(names) if name in {None, "elsewhere"}]
    assert torch.equal(found[untouched], base[untouched])


@torch.no_grad()
def test_fused_projections_get_the_updates_of_separate_ones(model):
    model["other"] = nn.Linear(INPUTS, 5, bias=False)
    x, plan = torch.randn(8, INPUTS), [(3, "a"), (3, None), (2, "b")]
    pair = (model["other"], model["proj"])
    with model.adapters.routed(segments_of(plan), x.device):
        separate = project(x, pair, None)
        fused = project(x, pair, stack(pair))
    for one, other in zip(separate, fused, strict=True):
        assert torch.allclose(one, other, atol=FLOAT32)


@pytest.mark.parametrize("name", ["a", "b"])
@torch.no_grad()
def test_the_merged_weight_gives_what_the_update_gives(model, name):
    projection, x = model["proj"], torch.randn(6, INPUTS)
    with model.adapters.routed(segments_of([(6, name)]), x.device):
        wanted = projection(x)
    assert torch.allclose(x @ weight_with(projection, name).T, wanted, atol=FLOAT32)
    assert weight_with(projection, None) is projection.weight


def test_a_merged_weight_is_made_once_and_again_when_something_changes(model):
    projection = model["proj"].requires_grad_(False)
    with torch.inference_mode():
        first = weight_with(projection, "a")
    assert not first.is_inference()
    assert weight_with(projection, "a") is first
    projection.weight.mul_(2)
    second = weight_with(projection, "a")
    assert torch.equal(second, projection.updates["a"].merged(projection.weight))
    projection.updates["a"] = update_of(9, dora=False, weight=projection.weight)
    assert torch.equal(weight_with(projection, "a"), projection.updates["a"].merged(projection.weight))
    projection.requires_grad_(True)
    weight_with(projection, "a").sum().backward()
    assert torch.equal(projection.weight.grad, torch.ones(OUTPUTS, INPUTS))


def test_magnitudes_become_the_norms_of_the_rows():
    weight, magnitude = torch.randn(OUTPUTS, INPUTS), torch.rand(OUTPUTS)
    low_rank = LowRank(torch.randn(RANK, INPUTS), torch.randn(OUTPUTS, RANK), 2.0)
    merged = Directional.of(low_rank, magnitude, weight).merged(weight)
    assert torch.allclose(merged.norm(dim=1), magnitude, atol=FLOAT32)


def test_updates_of_some_rows_have_the_gradients_of_the_formula(model):
    projection, plan = model["proj"], [(3, "a"), (1, None), (2, "b"), (4, "a")]
    x = torch.randn(10, INPUTS)
    x, twin = x.clone().requires_grad_(), x.clone().requires_grad_()
    with model.adapters.routed(segments_of(plan), x.device):
        projection(x).square().sum().backward()
    found, projection.weight.grad = projection.weight.grad, None
    gain = projection.updates["b"].gain
    low = {name: projection.updates[name] for name in ("a",)} | {"b": projection.updates["b"].low_rank}

    def one(row, name):
        out = projection.weight @ row
        if name is None:
            return out
        out = out + low[name].scale * (low[name].b @ (low[name].a @ row))
        return out * gain if name == "b" else out

    names = [name for count, name in plan for _ in range(count)]
    torch.stack([one(row, name) for row, name in zip(twin, names, strict=True)]).square().sum().backward()
    assert torch.allclose(x.grad, twin.grad, rtol=FLOAT32, atol=1e-3)
    assert torch.allclose(found, projection.weight.grad, rtol=FLOAT32, atol=1e-3)


def test_routing_ends_with_the_forward_even_when_it_fails(model):
    def failing():
        with model.adapters.routed(segments_of([(1, "a")]), torch.device("cpu")):
            assert model.adapters.groups
            raise ValueError

    with pytest.raises(ValueError):
        failing()
    assert model.adapters.groups == ()


def test_an_unknown_adapter_is_refused_with_the_known_ones(model):
    refused = pytest.raises(BadParameter, match=r"no adapter 'c'\. Loaded ones: a, b, elsewhere")
    with refused, model.adapters.routed(segments_of([(1, "c")]), torch.device("cpu")):
        pass
    with pytest.raises(BadParameter, match="None is loaded"):
        Adapters().require("c")


def test_a_projection_keeps_its_name_weight_and_nothing_else(model):
    fresh = nn.ModuleDict({"proj": nn.Linear(INPUTS, OUTPUTS, bias=False)})
    assert list(model.state_dict()) == list(fresh.state_dict())
    assert make_adaptable(model, "proj", model.adapters) is model["proj"]
    assert torch.equal(adapted(fresh["proj"], torch.ones(1, INPUTS), out := torch.ones(1)), out)


@pytest.mark.parametrize("dora", [False, True])
@torch.no_grad()
def test_a_packed_projection_takes_updates_and_stays_packed(dora):
    scheme = Scheme(bits=8, group=INPUTS // 2)
    codes = torch.randint(0, 255, (OUTPUTS, INPUTS), dtype=torch.uint8)
    packed = QuantLinear(QuantTensor(pack_codes(codes, 8), torch.rand(OUTPUTS, 2) / 99, None, scheme))
    model, plan, x = nn.ModuleDict({"proj": packed}), [(2, "a"), (3, None)], torch.randn(5, INPUTS)
    adapters, before = Adapters({"a"}), packed(x)
    projection = make_adaptable(model, "proj", adapters)
    projection.updates["a"] = update_of(1, dora=dora, weight=projection.weight)
    with adapters.routed(segments_of(plan), x.device):
        found = projection(x)
    assert torch.equal(found[2:], before[2:])
    assert torch.allclose(found[:2], x[:2] @ weight_with(projection, "a").T, atol=FLOAT32)
    assert projection.packed.codes.dtype == torch.uint8


@torch.no_grad()
def test_a_copied_model_routes_its_own_rows(model):
    twin, x = copy.deepcopy(model), torch.randn(2, INPUTS)
    with model.adapters.routed(segments_of([(2, "a")]), x.device):
        assert torch.equal(twin["proj"](x), x @ twin["proj"].weight.T)
        assert twin.adapters.groups == ()
    assert twin.adapters.names == model.adapters.names
