"""The compiled part says how it was built, or why it is absent."""

import re
import sys
from types import ModuleType

import pytest

from minicpm.ops import native


@pytest.fixture(autouse=True)
def fresh_probe():
    """Each test looks anew."""
    native._probe.cache_clear()
    yield
    native._probe.cache_clear()


def test_exactly_one_of_build_and_absence_is_known():
    assert (native.build() is None) != (native.absence() is None)


def test_a_compiled_part_names_its_version_compiler_and_instruction_sets(monkeypatch):
    compiled = ModuleType("minicpm.ops._native")
    compiled.build = lambda: "0.1.0, GNU 12.2.0, Release, x86-64"
    monkeypatch.setitem(sys.modules, "minicpm.ops._native", compiled)
    assert native.build() == "0.1.0, GNU 12.2.0, Release, x86-64"
    assert native.absence() is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModuleNotFoundError("No module named 'minicpm.ops._native'"), "has no compiled part"),
        (ImportError("undefined symbol: x"), r"does not load \(undefined symbol: x\)"),
    ],
)
def test_an_absent_or_broken_part_is_explained(error, reason, monkeypatch):
    def refuse(name: str) -> ModuleType:
        raise error

    monkeypatch.setattr(native, "import_module", refuse)
    assert native.build() is None
    assert re.search(reason, native.absence())
