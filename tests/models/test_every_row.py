"""Every published row, at toy size: loads by name strictly, equals a slow form, survives saving, learns.

What is cached, packed, rewound and forked is compared for the same rows in test_decoder_equalities, and the
parameters of the real sizes are counted in test_published_counts.
"""

import pytest
import torch
from safetensors.torch import load_file, save_file

from minicpm.cache import Batch, Segment
from minicpm.checkpoint import open_checkpoint, save
from minicpm.checkpoint.loading import load_as, load_decoder
from minicpm.errors import WeightMismatch
from minicpm.layers.lora import LowRank, make_adaptable
from minicpm.models.published import by_name, published
from minicpm.models.trunk import Trunk
from minicpm.testing import families, tiny_checkpoint
from minicpm.testing.slow import SlowModel

# Largest difference over largest value, against float64: float32 rounds each of at most 128 terms of a sum
# once, over four layers. Measured at most 1e-6 with muP's small residual branches and 1.9e-6 without.
FLOAT32 = 1e-5
# In bfloat16's rounding step 2^-8: a few dozen roundings of a residual stream, against its largest value.
# Measured at most 4.9 steps, without muP.
BFLOAT16 = 8 * 2**-8

TOKENS = 210  # three pages and a part of one, so that sparse layers leave one out
_GEOMETRY = {"kernel_size": 8, "kernel_stride": 4, "window_size": 0, "topk": 3, "dense_len": 70}
_SPARSE = ("minicpm4", "minicpm4.1", "minicpm-sala")
EVERY_ROW = pytest.mark.parametrize("row", published(), ids=lambda row: row.name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """folder(row) -> its toy checkpoint; geometry small enough that sparse layers choose."""
    made = {}

    def make(row):
        if row.name not in made:
            changes = {"sparse_config": _GEOMETRY} if row.family in _SPARSE else {}
            made[row.name] = tiny_checkpoint(row.name, tmp_path_factory.mktemp("row"), **changes)
        return made[row.name]

    return make


def opened(path, *, dtype="float32", prepare=True) -> Trunk:
    return load_as(Trunk, open_checkpoint(path), dtype=dtype, prepare=prepare)


def state_of(path):
    state = {}
    for file in path.glob("*.safetensors"):
        state |= load_file(file)
    return state


def ids_of(model, count=TOKENS):
    return torch.randint(model.config.vocab, (count,), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def hidden(model, ids):
    return model(Batch.of_sequences(ids)).double()


def difference(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@EVERY_ROW
@pytest.mark.parametrize("prepare", [True, False], ids=["prepared", "training"])
def test_hidden_states_equal_the_slow_form(row, folder, prepare):
    model = opened(folder(row), prepare=prepare)
    slow = SlowModel(open_checkpoint(folder(row)).raw_config, state_of(folder(row)))
    ids = ids_of(model)
    assert difference(hidden(model, ids), slow.hidden(ids)) <= FLOAT32


@pytest.mark.parametrize("name", families())
def test_logits_equal_the_slow_form(name, folder):
    row = next(row for row in published() if row.name.lower() == name)
    model = load_decoder(folder(row), dtype="float32")
    slow = SlowModel(open_checkpoint(folder(row)).raw_config, state_of(folder(row)))
    ids = ids_of(model, 40)
    assert difference(model.logits_for(ids).double(), slow.logits(ids)) <= FLOAT32


def test_the_sparse_geometry_of_these_rows_leaves_blocks_out(folder):
    path = folder(by_name("MiniCPM4-8B"))
    sparse, dense = (load_decoder(path, sparse=mode) for mode in ("auto", "off"))
    ids = ids_of(sparse)
    apart = difference(hidden(sparse, ids), hidden(dense, ids))
    assert apart > 100 * FLOAT32


@EVERY_ROW
def test_bfloat16_stays_near_the_slow_form_of_the_same_weights(row, folder):
    model = opened(folder(row), dtype="bfloat16")
    state = {name: weight.bfloat16() for name, weight in state_of(folder(row)).items()}
    slow = SlowModel(open_checkpoint(folder(row)).raw_config | {"sparse_config": None}, state)
    ids = ids_of(model, 60)  # too short to choose blocks, where one rounding may choose another
    assert difference(hidden(model, ids), slow.hidden(ids)) <= BFLOAT16


@EVERY_ROW
def test_a_missing_and_an_unknown_tensor_are_named_together(row, folder, tmp_path):
    state = state_of(folder(row))
    lost = min(name for name in state if name.endswith(("down_proj.weight", "w2.weight")))
    state["stray.weight"] = state.pop(lost).clone()
    for file in folder(row).iterdir():
        if file.suffix == ".json" and "index" not in file.name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightMismatch) as refused:
        opened(tmp_path)
    assert lost in str(refused.value)
    assert "stray.weight" in str(refused.value)


@EVERY_ROW
def test_saved_and_opened_again_it_gives_the_same(row, folder, tmp_path):
    model = opened(folder(row))
    save(model, tmp_path / "saved", source=folder(row))
    ids = ids_of(model)
    assert torch.equal(hidden(opened(tmp_path / "saved"), ids), hidden(model, ids))


@EVERY_ROW
def test_a_low_rank_step_learns_and_leaves_the_weights_alone(row, folder):
    model = opened(folder(row), prepare=False).requires_grad_(False)
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.adapters.names.add("new")
    generator = torch.Generator().manual_seed(2)
    factors = []
    for name in projections(model):
        projection = make_adaptable(model, name, model.adapters)
        a = torch.randn(2, projection.in_features, generator=generator) / projection.in_features**0.5
        b = torch.randn(projection.out_features, 2, generator=generator) * 0.1
        factors += [a.requires_grad_(), b.requires_grad_()]
        projection.updates["new"] = LowRank(a, b, 1.0)
    ids = ids_of(model, 30)
    segments = (Segment(None, 0, len(ids), adapter="new"),)

    def loss():
        return (model(Batch(ids, segments)) - 1).square().mean()

    first = loss()
    first.backward()
    assert all(factor.grad is not None and factor.grad.abs().sum() > 0 for factor in factors)
    with torch.no_grad():
        for factor in factors:
            factor.sub_(0.05 * factor.grad / factor.grad.norm())
    assert loss() < first
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters() if name in before)


def projections(model):
    """Names of the first and the last layer's linear projections, experts' aside."""
    ends = {0, len(model.config.layers) - 1}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and "experts" not in name
        and any(f"layers.{end}." in name for end in ends)
    ]
