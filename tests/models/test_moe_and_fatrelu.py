"""MiniCPM-MoE and MiniCPM-S as whole models: logits equal oracles; skipping neurons only changes rounding."""

import math

import pytest
import torch

from minicpm.cache import Batch, Segment
from minicpm.config import Dense, FATReLU, MoE
from minicpm.errors import BadParameter
from minicpm.layers.experts import Experts
from minicpm.layers.lora import LowRank, make_adaptable
from minicpm.layers.sparse_mlp import SparseMLP
from minicpm.models.published import by_name
from minicpm.models.registry import parse
from minicpm.models.sparsity import activation_sparsity, skip_inactive

# Largest difference over largest logit: the same float32 sums in another order over three layers.
# Measured at most 5e-7.
FLOAT32 = 1e-5
# In units of bfloat16's rounding step, with muP's small residual branches.
BFLOAT16 = 4 * 2**-8

MOE, RELU = "minicpm-moe-8x2b", "minicpm-s-1b"


def difference(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def scales(raw):
    """muP's (embedding, residual, logit) scales, by the published rules."""
    residual = raw["scale_depth"] / math.sqrt(raw["num_hidden_layers"])
    return raw["scale_emb"], residual, raw["hidden_size"] / raw["dim_model_base"]


def granite_settings(raw):
    embed, residual, logit = scales(raw)
    names = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
    names += ["num_key_value_heads", "rms_norm_eps", "max_position_embeddings"]
    return {name: raw[name] for name in names} | {
        "tie_word_embeddings": True,
        "embedding_multiplier": embed,
        "residual_multiplier": residual,
        "logits_scaling": logit,
        "attention_multiplier": (raw["hidden_size"] // raw["num_attention_heads"]) ** -0.5,
        "attn_implementation": "eager",
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def granite_moe(raw, state):
    """Granite's experts take a softmax over the chosen scores, which is ours rescaled."""
    transformers = pytest.importorskip("transformers", reason="the oracle; pip install minicpm[dev]")
    experts = {"num_local_experts": raw["num_experts"], "num_experts_per_tok": raw["num_experts_per_tok"]}
    model = transformers.GraniteMoeForCausalLM(
        transformers.GraniteMoeConfig(**granite_settings(raw) | experts)
    )
    mapped = {name: weight for name, weight in state.items() if ".mlp." not in name}
    for layer in range(raw["num_hidden_layers"]):
        old, new = f"model.layers.{layer}.mlp.", f"model.layers.{layer}.block_sparse_moe."
        w1, w2, w3 = (
            torch.stack([state[f"{old}experts.{j}.w{k}.weight"] for j in range(raw["num_experts"])])
            for k in (1, 2, 3)
        )
        inputs = torch.cat([w1, w3], dim=1)
        mapped |= {f"{new}router.weight": state[f"{old}gate.weight"]}
        mapped |= {f"{new}experts.gate_up_proj": inputs, f"{new}experts.down_proj": w2}
        # The same under the names of earlier versions.
        mapped |= {f"{new}router.layer.weight": state[f"{old}gate.weight"]}
        mapped |= {f"{new}input_linear.weight": inputs, f"{new}output_linear.weight": w2}
    mapped["lm_head.weight"] = state["model.embed_tokens.weight"]
    known = model.state_dict().keys()
    model.load_state_dict({name: weight for name, weight in mapped.items() if name in known}, strict=True)
    return model.eval()


def granite_with_fatrelu(raw, state):
    transformers = pytest.importorskip("transformers", reason="the oracle; pip install minicpm[dev]")
    model = transformers.GraniteForCausalLM(transformers.GraniteConfig(**granite_settings(raw)))
    model.load_state_dict(state | {"lm_head.weight": state["model.embed_tokens.weight"]}, strict=True)
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.Threshold(raw["hidden_act_param"], 0.0)
    return model.eval()


@torch.no_grad()
def their_logits(model, ids):
    return model(ids[None]).logits[0].float()


@torch.no_grad()
def our_logits(decoder, ids):
    return decoder.logits_for(ids)


def test_the_published_rows_have_experts_and_a_thresholded_relu():
    assert {layer.ffn for layer in parse(by_name("MiniCPM-MoE-8x2B").raw).layers} == {MoE(5760, 8, 2)}
    assert {layer.ffn for layer in parse(by_name("MiniCPM-S-1B").raw).layers} == {Dense(3840, FATReLU(0.01))}


@pytest.mark.parametrize("backend", [None, "reference", "torch"])
@pytest.mark.parametrize("chosen", [1, 2, 3])
def test_logits_of_experts_equal_the_oracle(toy, backend, chosen):
    model = toy(MOE, num_experts_per_tok=chosen)
    ids = model.ids(130)
    wanted = their_logits(granite_moe(model.raw, model.state), ids)
    assert difference(our_logits(model.decoder(backend=backend), ids), wanted) <= FLOAT32


def test_bfloat16_experts_stay_near_float32(toy):
    """Routes may flip where two experts are almost equal, so only rows that kept theirs are compared."""
    model = toy(MOE)
    ids = model.ids(130)
    rounded = {name: weight.bfloat16().float() for name, weight in model.state.items()}
    exact = type(model)(model.raw, rounded)
    found, wanted = model.decoder(dtype=torch.bfloat16), exact.decoder()
    same = torch.ones(130, dtype=torch.bool)
    for ours, theirs in zip(routes(found, ids), routes(wanted, ids), strict=True):
        same &= (ours.sort(-1).values == theirs.sort(-1).values).all(-1)
    assert same.sum() > 100
    assert difference(our_logits(found, ids)[same], our_logits(wanted, ids)[same]) <= 2 * BFLOAT16


def routes(decoder, ids):
    found = []
    hooks = [
        block.mlp.register_forward_pre_hook(lambda mlp, args: found.append(mlp.route(args[0]).experts))
        for block in decoder.model.layers
    ]
    our_logits(decoder, ids)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("backend", [None, "reference", "torch"])
@pytest.mark.parametrize("threshold", [0.01, 0.5])
def test_logits_of_fatrelu_equal_the_oracle(toy, backend, threshold):
    model = toy(RELU, hidden_act_param=threshold)
    ids = model.ids(130)
    wanted = their_logits(granite_with_fatrelu(model.raw, model.state), ids)
    assert difference(our_logits(model.decoder(backend=backend), ids), wanted) <= FLOAT32


@torch.inference_mode()
@pytest.mark.parametrize("family", [MOE, RELU])
@pytest.mark.parametrize("company", [1, 2, 3, 7])
def test_float32_decode_gives_the_same_bits_alone_and_in_any_batch(toy, family, company):
    decoder = toy(family).decoder(backend="torch")
    ids = toy(family).ids(5 * (company + 1), seed=company).view(company + 1, 5)
    alone, together = decoder.new_cache(16), decoder.new_cache(16)
    seq, sequences = alone.open(), [together.open() for _ in ids]
    for step in range(5):
        one = decode(decoder, alone, [seq], ids[:1, step])
        many = decode(decoder, together, sequences, ids[:, step])
        assert torch.equal(one[0], many[0]), f"step {step} differs by {(one[0] - many[0]).abs().max():.2e}"


@torch.inference_mode()
def decode(decoder, cache, sequences, ids):
    segments = tuple(Segment(seq, cache.length(seq), 1) for seq in sequences)
    assert all(cache.reserve(seq, 1) for seq in sequences)
    return decoder.logits(decoder(Batch(ids, segments, cache)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("threshold", [0.01, 0.8])
def test_skipping_inactive_neurons_changes_rounding_at_most(toy, dtype, threshold):
    model = toy(RELU, hidden_act_param=threshold)
    plain, skipping = model.decoder(dtype=dtype, backend="torch"), model.decoder(dtype=dtype, backend="torch")
    skip_inactive(skipping)
    bound = FLOAT32 if dtype == torch.float32 else BFLOAT16
    caches = plain.new_cache(1), skipping.new_cache(1)
    sequences = [cache.open() for cache in caches]
    for token in model.ids(20).split(1):
        wanted, found = (
            decode(decoder, cache, [seq], token)
            for decoder, cache, seq in zip((plain, skipping), caches, sequences, strict=True)
        )
        assert difference(found, wanted) <= bound


def test_larger_forwards_and_the_state_are_those_of_a_model_that_does_not_skip(toy):
    model = toy(RELU)
    plain, skipping = model.decoder(backend="torch"), model.decoder(backend="torch")
    skip_inactive(skipping, rows=2)
    ids = model.ids(40)
    assert difference(our_logits(skipping, ids), our_logits(plain, ids)) <= FLOAT32
    assert all(torch.equal(w, plain.state_dict()[name]) for name, w in skipping.state_dict().items())


def test_a_row_has_the_same_bits_in_all_forwards_that_skip(toy):
    decoder = toy(RELU).decoder(backend="torch")
    skip_inactive(decoder, rows=4)
    mlp, x = decoder.model.layers[0].mlp, torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(mlp(x), torch.cat([mlp(row) for row in x.split(1)]))


def test_only_models_with_exact_zeros_can_skip(toy):
    with pytest.raises(BadParameter, match="silu"):
        skip_inactive(toy("minicpm-1b").decoder(backend="torch"))
    with pytest.raises(BadParameter, match="prepared"):
        skip_inactive(toy(RELU).decoder())


def test_an_adapter_is_not_left_out_with_the_neurons(toy):
    """A layer that skips gives way to adapters that come later, and does not begin when they are there."""
    projection = "model.layers.1.mlp.up_proj"
    early, late = toy(RELU).decoder(backend="torch"), toy(RELU).decoder(backend="torch")
    make_adaptable(early, projection, early.adapters)
    with pytest.raises(BadParameter, match="have adapters"):
        skip_inactive(early)
    skip_inactive(late)
    make_adaptable(late, projection, late.adapters).updates["one"] = LowRank(
        torch.ones(1, 64), torch.ones(96, 1), scale=1.0
    )
    late.adapters.names.add("one")
    x, parts = torch.randn(1, 64, generator=torch.Generator().manual_seed(0)), [None, "one"]
    with torch.no_grad():
        outs = []
        for name in parts:
            with late.adapters.routed((Segment(0, 0, 1, adapter=name),), x.device):
                outs.append(late.model.layers[1].mlp(x))
    assert difference(*outs) > 0.01


@pytest.mark.parametrize("backend", [None, "torch"])
def test_sparsity_is_the_share_of_zeros_that_the_down_projections_see(toy, backend):
    decoder, ids = toy(RELU, hidden_act_param=0.3).decoder(backend=backend), toy(RELU).ids(96)
    seen = [[] for _ in decoder.model.layers]
    for found, block in zip(seen, decoder.model.layers, strict=True):
        block.mlp.down_proj.register_forward_pre_hook(lambda _, args, found=found: found.append(args[0]))
    our_logits(decoder, ids)
    wanted = [(inner[0] == 0).float().mean().item() for inner in seen]
    found = activation_sparsity(decoder, ids)
    assert found.layers == pytest.approx(wanted, abs=1e-6)
    assert found.mean == pytest.approx(sum(wanted) / len(wanted))
    assert 0.5 < found.mean < 0.9


def test_a_higher_threshold_leaves_more_neurons_inactive(toy):
    ids = toy(RELU).ids(50)
    shares = [
        activation_sparsity(toy(RELU, hidden_act_param=threshold).decoder(), ids).layers[0]
        for threshold in (0.01, 0.3, 1.0)
    ]
    assert shares == sorted(shares)
    assert shares[0] < shares[2]


@pytest.mark.parametrize("family", ["minicpm-1b", MOE, "minicpm5-1b"])
@pytest.mark.parametrize("backend", [None, "torch"])
def test_silu_leaves_no_neuron_at_exactly_zero(toy, family, backend):
    found = activation_sparsity(toy(family).decoder(backend=backend), toy(family).ids(30))
    assert found.layers == (0.0,) * 3


def test_long_texts_are_weighed_by_their_tokens(toy):
    """Texts are cut where memory would grow; each token counts once."""
    decoder, ids = toy(RELU).decoder(), toy(RELU).ids(700)
    pieces = [activation_sparsity(decoder, part) for part in ids.split(512)]
    whole = activation_sparsity(decoder, ids)
    wanted = (512 * pieces[0].mean + 188 * pieces[1].mean) / 700
    assert whole.mean == pytest.approx(wanted, abs=1e-6)
    assert whole.tokens == 700


def test_the_modules_are_those_of_the_config(toy):
    assert all(type(block.mlp) is Experts for block in toy(MOE).decoder().model.layers)
    assert all(type(block.mlp) is SparseMLP for block in toy(RELU).decoder().model.layers)
