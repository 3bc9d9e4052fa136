"""docs/models.md is what the registry says now, and saying it needs no torch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import minicpm
from minicpm.models.abilities import abilities
from minicpm.models.companions import companions
from minicpm.models.docs import models_table
from minicpm.models.published import by_name, published

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.mark.skipif(not PAGE.parent.is_dir(), reason="needs the repository's docs folder beside tests")
def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == models_table(), (
        "run: python -m minicpm.models.docs > docs/models.md"
    )


def test_every_model_has_its_repositories_count_and_doubts_on_the_page():
    page = models_table()
    for row in published():
        assert all(f"`{name}`" in page for name in row.repositories)
        assert row.parameters is None or f"{row.parameters:,}" in page
        assert all(doubt in page for doubt in row.unverified)


def test_the_page_says_what_each_supports_and_what_goes_beside_it():
    page = models_table()
    for row in published():
        assert f"| {row.name} | {', '.join(abilities(row))} |" in page
    for row in companions():
        assert row.repository in page
        by_name(row.model)


@pytest.mark.parametrize(
    ("name", "supported"),
    [
        ("MiniCPM-2B", ("dense", "speculation")),
        ("MiniCPM-MoE-8x2B", ("dense", "experts", "speculation")),
        ("MiniCPM-S-1B", ("dense", "inactive neurons", "speculation")),
        ("MiniCPM3-4B", ("latent", "speculation")),
        ("MiniCPM4-8B", ("dense", "sparse", "speculation")),
        ("BitCPM4-1B", ("dense", "ternary", "speculation")),
        ("MiniCPM-SALA", ("dense", "sparse", "linear", "speculation")),
        ("MiniCPM-V", ("dense", "vision", "speculation")),
        ("MiniCPM-Embedding", ("dense", "embeddings")),
        ("MiniCPM-Reranker", ("dense", "reranking")),
    ],
)
def test_abilities_follow_from_the_config(name, supported):
    assert abilities(by_name(name)) == supported


def test_registry_and_page_do_without_torch():
    code = "import sys, minicpm.models.docs, minicpm.models.registry; sys.exit('torch' in sys.modules)"
    source = {"PYTHONPATH": str(Path(minicpm.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | source, check=False)
    assert done.returncode == 0
