"""Imports of the package point down, and the contracts that say so catch what they must."""

import shutil

import pytest

# An editable installation answers for the package before the search path does; here the search path decides.
LINT = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
from importlinter.cli import lint_imports_command
lint_imports_command(["--no-logo", "--no-cache"])
"""

VIOLATIONS = {
    "text imports torch": ("text/_planted.py", "import torch"),
    "config imports torch by a name in it": ("config/_planted.py", "from torch import nn"),
    "a lower room imports a higher one": ("cache/_planted.py", "import minicpm.engine"),
    "rooms on one line import each other": ("text/_planted.py", "import minicpm.config"),
    "the door to transformers imports the engine": ("hf/_planted.py", "import minicpm.engine"),
    "something imports testing": ("engine/_planted.py", "import minicpm.testing"),
    "testing imports above the engine": ("testing/_planted.py", "import minicpm.cli"),
    "an application imports the engine": ("apps/planted.py", "import minicpm.engine"),
    "the room of applications imports the checkpoint": ("apps/__init__.py", "import minicpm.checkpoint"),
    "an application imports torch": ("apps/planted.py", "import torch"),
    "a room that the plan does not have": ("utils/planted.py", ""),
}


def test_every_import_of_the_package_points_down(run_python):
    done = run_python("-c", LINT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("planted", VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_planted_wrong_import_is_caught(planted, run_python, root, tmp_path):
    path, line = planted
    shutil.copytree(root / "src", tmp_path / "src", ignore=shutil.ignore_patterns("assets", "__pycache__"))
    shutil.copy(root / "pyproject.toml", tmp_path)
    for room in ("apps", "cli", "engine", path.split("/")[0]):
        (tmp_path / "src/minicpm" / room).mkdir(exist_ok=True)
        (tmp_path / "src/minicpm" / room / "__init__.py").touch()
    (tmp_path / "src/minicpm" / path).write_text(line + "\n")
    done = run_python("-c", LINT, cwd=tmp_path, source=tmp_path / "src")
    assert done.returncode != 0
    assert "BROKEN" in done.stdout or "utils" in done.stdout, done.stdout + done.stderr
