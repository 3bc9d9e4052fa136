"""A measurement checks first, refuses what cannot be, and gives a row for each work."""

import json

import pytest
import torch

from minicpm.bench import check, limits, measuring, memory
from minicpm.bench.measuring import Checked, Limits, Plan, Row, document, measure
from minicpm.bench.plot import check_plot, plot_rows
from minicpm.bench.shapes import published_shape
from minicpm.checkpoint.available import Limit
from minicpm.errors import BadInput, BadParameter, CapacityError, StepFailed
from minicpm.models.decoder import Decoder

ROW = set("work shape layers weights context batch sparse tok_s share_of_limit peak_bytes".split())


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Limits from a small block, and a single step per repeat."""
    monkeypatch.setattr(limits, "_BLOCK", 1 << 20)
    monkeypatch.setattr(limits, "_PASSES", 1)
    monkeypatch.setattr(limits, "_product_rates", lambda: [1e9])
    monkeypatch.setattr("minicpm.bench.decode._FEWEST_STEPS", 1)
    monkeypatch.setattr("minicpm.bench.decode._LEAST_S", 0.0)


def plan_of(shape, **more):
    return Plan(shape=shape, **({"prompts": (16,), "contexts": (0, 64), "repeats": 1} | more))


def rows_of(events):
    return [event for event in events if isinstance(event, Row)]


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_every_kind_of_model_is_measured(each, backend):
    weights = ("bf16", "int8", "int4", "ternary")
    events = list(measure(plan_of(each, weights=weights, batches=(1, 2), backend=backend)))
    rows = rows_of(events)
    works = [("prefill", 16, 1), *(("decode", n, b) for b in (1, 2) for n in (0, 64))]
    expected = [(w, *work) for w in weights for work in works]
    assert [(r.weights, r.work, r.context, r.batch) for r in rows] == expected
    assert all(r.tok_s_least <= r.tok_s <= r.tok_s_greatest for r in rows)
    assert all(r.share_of_limit > 0 for r in rows)
    assert all(r.peak_bytes > 0 for r in rows)
    assert [e.weights for e in events if isinstance(e, Checked)] == list(weights)
    assert isinstance(events[0], Limits)


def test_the_document_has_what_it_promises(toy):
    found = json.loads(json.dumps(document(list(measure(plan_of(toy()))))))
    assert found.keys() == {"limits", "checks", "rows"}
    assert all(row.keys() >= ROW for row in found["rows"])
    assert all(value > 0 for key, value in found["limits"].items() if key.endswith("_s"))


def test_a_row_says_whether_attention_is_sparse(toy):
    (row,) = rows_of(measure(plan_of(toy(), sparse="on", prompts=(), contexts=(0,))))
    assert row.sparse


def test_sparse_attention_of_a_model_without_any_is_refused(toy):
    with pytest.raises(BadParameter, match="Sparse attention was asked for"):
        next(measure(plan_of(toy("minicpm3-4b"), sparse="on")))


@pytest.mark.parametrize(
    "wrong",
    [
        {"weights": ("int3",)},
        {"prompts": (0,)},
        {"contexts": (-1,)},
        {"batches": (0,)},
        {"repeats": 0},
        {"threads": 0},
        {"backend": "magic"},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_at_once(toy, wrong):
    with pytest.raises(BadParameter):
        plan_of(toy(), **wrong)


def test_memory_is_refused_before_anything_is_built(monkeypatch):
    monkeypatch.setattr(memory, "memory_limits", lambda: [Limit("the machine's available memory", 3 << 30)])
    monkeypatch.setattr(measuring, "measure_limits", pytest.fail)
    with pytest.raises(CapacityError, match=r"take 4\.\d\d GiB and 1 x 512 tokens .* leaves 3.00 GiB"):
        next(measure(Plan(shape=published_shape("MiniCPM4-8B"), weights=("int4",))))


def test_memory_counts_every_sequence_of_a_batch(monkeypatch):
    monkeypatch.setattr(memory, "memory_limits", lambda: [Limit("the machine's available memory", 3 << 30)])
    plan = Plan(shape=published_shape("MiniCPM4-0.5B"), contexts=(131072,), batches=(1, 8))
    with pytest.raises(CapacityError, match=r"8 x 131,136 tokens of context 12\.\d\d GiB"):
        next(measure(plan))


def test_wrong_numbers_are_not_timed(toy, monkeypatch):
    honest = Decoder.logits

    def dishonest(self, hidden):
        logits = honest(self, hidden)
        return logits * 1.1 if self.backend.name == "torch" else logits

    monkeypatch.setattr(Decoder, "logits", dishonest)
    with pytest.raises(StepFailed, match=r"float32 reference differ by 10\.\d%"):
        list(measure(plan_of(toy(), backend="torch")))


def test_numbers_that_are_not_finite_are_not_timed(toy, monkeypatch):
    monkeypatch.setattr(check, "_in_chunks", lambda decoder, ids, kv: torch.full((1,), float("nan")))
    with pytest.raises(StepFailed):
        list(measure(plan_of(toy())))


def test_eight_bits_that_the_backend_cannot_read_are_refused_before_anything_is_built(toy):
    with pytest.raises(BadParameter, match="torch backend"):
        next(measure(plan_of(toy(), backend="torch", kv="int8")))


def test_the_threads_of_torch_are_as_before(toy):
    before = torch.get_num_threads()
    list(measure(plan_of(toy(), threads=before + 1, backend="torch")))
    assert torch.get_num_threads() == before


def test_the_peak_of_memory_is_forgotten():
    if not memory._RESET.exists():
        pytest.skip("this system does not let a process forget its peak")
    block = torch.ones(1 << 26)
    high = memory.peak_bytes()
    del block
    memory.forget_peak()
    assert memory.peak_bytes() < high - (1 << 27)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_plot_is_drawn_of_the_rows(toy, tmp_path, kind):
    rows = [
        e for e in measure(plan_of(toy(), weights=("bf16", "int4"), batches=(1, 2))) if isinstance(e, Row)
    ]
    target = tmp_path / f"speed.{kind}"
    check_plot(target)
    plot_rows(rows, target)
    assert target.stat().st_size > 1000


@pytest.mark.parametrize("name", ["speed", "speed.txt", "nowhere/speed.png"])
def test_a_plot_that_cannot_be_is_refused(tmp_path, name):
    with pytest.raises(BadInput):
        check_plot(tmp_path / name)
