"""Importing the door registers, never takes away, and says what it lacks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import minicpm.hf

ROOT = Path(__file__).parents[2]


def run(code):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )


class TheirConfig(PreTrainedConfig):
    model_type = "minicpm"


def test_a_model_type_that_is_taken_stays_taken_until_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(CONFIG_MAPPING._extra_content, "minicpm", TheirConfig)
    with pytest.warns(UserWarning, match="'minicpm' is already registered") as caught:
        minicpm.hf.register()
    assert len(caught) == 1
    assert f"{__name__}.TheirConfig" in str(caught[0].message)
    assert "register(override=True)" in str(caught[0].message)
    assert type(AutoConfig.for_model("minicpm")) is TheirConfig
    assert type(AutoConfig.for_model("minicpm_sala")) is minicpm.hf.MiniCPMSALAConfig
    minicpm.hf.register(override=True)
    assert type(AutoConfig.for_model("minicpm")) is minicpm.hf.MiniCPMConfig


@pytest.mark.parametrize(
    ("before", "why"),
    [
        ("sys.modules['transformers'] = None", "needs transformers, which cannot be imported"),
        (
            "sys.modules['transformers'] = types.SimpleNamespace(__version__='4.57.1')",
            "needs transformers 5 or newer, and 4.57.1 is installed",
        ),
    ],
)
def test_without_transformers_the_extra_is_named(before, why):
    done = run(f"import sys, types\n{before}\nimport minicpm.hf")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("minicpm.errors.MissingExtra: ")
    assert why in last
    assert "pip install 'minicpm[hf]'" in last


def test_registering_twice_says_nothing(recwarn):
    minicpm.hf.register()
    assert not recwarn.list
