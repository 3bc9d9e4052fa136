"""What must start fast does not import what is slow."""

import json

import pytest

HEAVY = ("torch", "transformers", "tokenizers", "huggingface_hub", "numpy", "rich", "pydantic", "jinja2")

# The standard library needs about 60 modules to start and 20 more for what the package root uses.
MOST_MODULES = 120

IMPORT_ROOM = """
import importlib, json, pkgutil, sys
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), name + "."):
        importlib.import_module(found.name)
print(json.dumps(sorted(sys.modules)))
"""


def loaded_modules(run_python, *names: str) -> set[str]:
    """Modules in memory after importing the modules `names` and everything inside them."""
    done = run_python("-c", IMPORT_ROOM, *names)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_is_light(run_python):
    done = run_python("-c", "import json, sys, minicpm; print(json.dumps(sorted(sys.modules)))")
    loaded = set(json.loads(done.stdout))
    assert not loaded.intersection(HEAVY)
    assert len(loaded) < MOST_MODULES, sorted(loaded)


@pytest.mark.parametrize("room", ["errors", "config", "text", "models.registry", "models.families"])
def test_a_room_without_torch_runs_without_torch(room, run_python):
    assert "torch" not in loaded_modules(run_python, f"minicpm.{room}")


def test_the_help_of_the_program_needs_no_torch(run_python):
    done = run_python("-X", "importtime", "-m", "minicpm", "--help")
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported.intersection({"torch", "transformers", "tokenizers", "huggingface_hub", "numpy"})


def test_an_unknown_name_of_the_package_is_an_attribute_error(run_python):
    done = run_python("-c", "import minicpm; minicpm.nothing_of_the_kind")
    assert "AttributeError: module 'minicpm' has no attribute 'nothing_of_the_kind'" in done.stderr
