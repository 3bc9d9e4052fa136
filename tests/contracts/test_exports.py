"""Every public package names exactly what it exports; ruff keeps the lists sorted."""

import ast
import importlib
from pathlib import Path

import pytest

import minicpm

PACKAGE = Path(minicpm.__file__).parent
INITS = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("__init__.py"))


def exported(tree: ast.Module) -> list[str] | None:
    """The literal `__all__` of a module, or None without one."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return ast.literal_eval(node.value)
    return None


def public_names(tree: ast.Module) -> set[str]:
    """Public names that a package's `__init__` takes from the package itself or defines."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("minicpm")):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("init", INITS, ids=str)
def test_all_is_complete(init):
    tree = ast.parse((PACKAGE / init).read_text(encoding="utf-8"))
    names = exported(tree)
    if names is None:
        assert not public_names(tree), f"{init} exports names without an __all__"
        return
    assert len(names) == len(set(names))
    assert public_names(tree) <= set(names)


@pytest.mark.parametrize("init", INITS, ids=str)
def test_every_exported_name_exists(init):
    module = importlib.import_module(".".join(["minicpm", *init.parts[:-1]]))
    missing = [name for name in getattr(module, "__all__", []) if not hasattr(module, name)]
    assert missing == []
