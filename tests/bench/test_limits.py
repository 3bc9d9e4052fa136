"""Limits are measured with every instruction set, and without any compiled part."""

import pytest
import torch

from minicpm.bench import limits
from minicpm.ops.native import module
from minicpm.ops.native.runtime import Runtime

needs_native = pytest.mark.skipif(module() is None, reason="needs the compiled part; `make setup` builds it")
SETS = module().instruction_sets() if module() is not None else []
PROBES = {
    "reading": lambda native, pool: native.read_bandwidth(pool, (1 << 24) + 100, 3),
    "floats": lambda native, pool: native.peak_float(pool, 3),
    "bytes": lambda native, pool: native.peak_int8(pool, 3),
}


@pytest.fixture
def native():
    """The compiled part; the instruction set is its best again afterwards."""
    yield module()
    module().choose(SETS[0])


@needs_native
@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
@pytest.mark.parametrize("name", SETS)
def test_every_pass_gives_a_rate(name, probe, native):
    assert native.choose(name)
    rates = probe(native, Runtime(2).pool)
    assert len(rates) == 3
    assert all(1e6 < rate < 1e15 for rate in rates), rates


@needs_native
def test_no_more_threads_are_probed_than_asked_for(monkeypatch):
    monkeypatch.setattr(limits, "_BLOCK", 1 << 20)
    assert limits.measure_limits(1).threads == 1


def test_without_a_compiled_part_torch_is_the_limit(monkeypatch):
    monkeypatch.setattr(limits, "module", lambda: None)
    monkeypatch.setattr(limits, "_BLOCK", 1 << 20)
    found = limits.measure_limits()
    assert (found.source, found.threads) == ("torch", torch.get_num_threads())
    assert found.int8_ops_s == found.float_ops_s > 0
    assert limits.measure_again(found).read_bytes_s >= found.read_bytes_s
