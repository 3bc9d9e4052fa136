"""Experts: a token's result is a plain sum over its experts, however tokens are grouped."""

import pytest
import torch
from torch.nn.functional import silu

from minicpm.config import MoE
from minicpm.layers.experts import Experts
from minicpm.layers.feed_forwards import feed_forward

HIDDEN = 24
INTER = (
    32  # whole vectors: the last odd elements of a tensor go through a scalar silu, which rounds differently
)

# The same float32 sums in another order; measured at most 4e-7 of outputs near 1, gradients included.
FLOAT32 = 2e-6


def experts_of(experts=8, chosen=2, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    module = feed_forward(HIDDEN, MoE(INTER, experts, chosen))
    assert isinstance(module, Experts)
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(0, weight.shape[1] ** -0.5)
    return module.to(dtype)


def stream(count, seed=1):
    return torch.randn(count, HIDDEN, generator=torch.Generator().manual_seed(seed))


def token_by_token(module, x):
    """Softmax over all experts, the best of them, rescaled, in a loop over tokens."""
    state, rows = dict(module.named_parameters()), []
    for token in x:
        probabilities = (state["gate.weight"] @ token).softmax(0)
        best = sorted(range(len(probabilities)), key=lambda j: (-probabilities[j].item(), j))[: module.chosen]
        y = torch.zeros(HIDDEN, dtype=x.dtype)
        for j in best:
            w1, w2, w3 = (state[f"experts.{j}.w{k}.weight"] for k in (1, 2, 3))
            y = y + probabilities[j] / sum(probabilities[i] for i in best) * (
                w2 @ (silu(w1 @ token) * (w3 @ token))
            )
        rows.append(y)
    return torch.stack(rows)


EVERY_SHAPE = pytest.mark.parametrize(
    ("count", "experts", "chosen"),
    [(1, 8, 2), (2, 8, 2), (63, 8, 2), (130, 8, 2), (7, 3, 3), (9, 5, 1), (4, 1, 1)],
)
EITHER_FORM = pytest.mark.parametrize("prepared", [False, True], ids=["separate", "stacked"])


@EVERY_SHAPE
@EITHER_FORM
def test_grouped_experts_equal_a_loop_over_tokens(count, experts, chosen, prepared):
    module, x = experts_of(experts, chosen), stream(count)
    wanted = token_by_token(module, x)
    if prepared:
        module.prepare()
    with torch.no_grad():
        assert torch.allclose(module(x), wanted, atol=FLOAT32)


@EVERY_SHAPE
def test_gradients_equal_those_of_the_loop(count, experts, chosen):
    def gradients(forward):
        module, x = experts_of(experts, chosen), stream(count).requires_grad_()
        forward(module, x).square().sum().backward()
        zero = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
        return {"x": x.grad} | {
            n: zero[n] if p.grad is None else p.grad for n, p in module.named_parameters()
        }

    wanted = gradients(token_by_token)
    for name, value in gradients(lambda module, x: module(x)).items():
        difference = (value - wanted[name]).abs().max() / wanted[name].abs().max().clamp_min(1)
        assert difference <= 5 * FLOAT32, f"{name} differs by {difference:.2e}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chosen", [1, 2, 5])
@EITHER_FORM
def test_a_tokens_bits_do_not_depend_on_its_company(dtype, chosen, prepared):
    module, x = experts_of(8, chosen, dtype=dtype), stream(64).to(dtype)
    if prepared:
        module.prepare()
    with torch.no_grad():
        whole = module(x)
        for rows in ([0, 1, 2, 3], list(range(8)), [63, 5, 5, 0, 1, 2, 3, 40]):
            assert torch.equal(module(x[rows]), whole[rows])


def test_one_token_beside_padding_gives_the_bits_it_has_in_a_batch():
    module, x = experts_of(), stream(64)
    module.prepare()
    padded = torch.cat([x[:1], torch.zeros(3, HIDDEN)])
    with torch.no_grad():
        assert torch.equal(module(padded)[0], module(x)[0])
        assert not module(padded)[1:].any()


@EITHER_FORM
def test_only_chosen_experts_are_read(prepared):
    """The others hold NaN; so does what padding would choose."""
    module, x = experts_of(), stream(1)
    used = module.route(x).experts[0].tolist()
    with torch.no_grad():
        for j, expert in enumerate(module.experts):
            if j not in used:
                for weight in expert.parameters():
                    weight.fill_(torch.nan)
        if prepared:
            module.prepare()
        assert module(torch.cat([x, torch.zeros(3, HIDDEN)])).isfinite().all()


def test_shares_are_those_of_a_softmax_over_the_chosen_scores():
    module, x = experts_of(), stream(50)
    routes = module.route(x)
    scores, best = module.gate(x).topk(2)
    assert torch.equal(routes.experts, best)
    assert torch.allclose(routes.shares, scores.softmax(-1), atol=1e-6)
    assert routes.shares.dtype == torch.float32


def test_equal_scores_choose_the_lower_expert():
    module = experts_of()
    with torch.no_grad():
        module.gate.weight.zero_()
    assert module.route(stream(3)).experts.tolist() == [[0, 1]] * 3


def test_equal_experts_are_one_dense_feed_forward():
    """How a dense model is turned into experts: its output must not change."""
    module, x = experts_of(), stream(40)
    first = module.experts[0].state_dict()
    for expert in module.experts:
        expert.load_state_dict(first)
    with torch.no_grad():
        dense = module.experts[0].w2(module.experts[0].inner(x))
        assert torch.allclose(module(x), dense, atol=FLOAT32)


@EITHER_FORM
def test_inner_is_what_the_down_projections_are_given(prepared):
    module, x = experts_of(), stream(9)
    routes = module.route(x)
    if prepared:
        module.prepare()
    inner = module.inner(x)
    assert inner.shape == (9, 2, INTER)
    with torch.no_grad():
        for n in range(9):
            for k in range(2):
                expert = module.experts[routes.experts[n, k]]
                assert torch.allclose(inner[n, k], expert.inner(x[n : n + 1])[0], atol=FLOAT32)


def test_no_tokens_give_no_rows():
    module = experts_of()
    assert module(stream(0)).shape == (0, HIDDEN)
    assert module.inner(stream(0)).shape == (0, 2, INTER)
    assert not module(torch.zeros(4, HIDDEN)).any()


def test_stacking_keeps_the_published_names_and_holds_nothing_twice():
    module = experts_of()
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    assert set(before) == {"gate.weight"} | {f"experts.{j}.w{k}.weight" for j in range(8) for k in (1, 2, 3)}
    module.prepare()
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    storages = {weight.untyped_storage().data_ptr() for weight in after.values()}
    assert len(storages) == 3  # router, all inputs, all outputs


def test_mixtral_of_transformers_routes_and_mixes_alike():
    pytest.importorskip("transformers", reason="the oracle; pip install minicpm[dev]")
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=HIDDEN, intermediate_size=INTER, num_local_experts=8, num_experts_per_tok=2
    )
    config._experts_implementation = "eager"
    module, oracle, x = experts_of(), MixtralSparseMoeBlock(config), stream(130)
    state = module.state_dict()
    inputs = [torch.cat([state[f"experts.{j}.w1.weight"], state[f"experts.{j}.w3.weight"]]) for j in range(8)]
    mapped = state | {  # earlier versions use the names of the state, which are also ours
        "experts.gate_up_proj": torch.stack(inputs),
        "experts.down_proj": torch.stack([state[f"experts.{j}.w2.weight"] for j in range(8)]),
    }
    known = oracle.state_dict().keys()
    oracle.load_state_dict({name: weight for name, weight in mapped.items() if name in known}, strict=True)
    with torch.no_grad():
        theirs = oracle(x[None])
        theirs = theirs[0] if isinstance(theirs, tuple) else theirs
        assert torch.allclose(module(x), theirs.reshape(130, HIDDEN), atol=FLOAT32)
