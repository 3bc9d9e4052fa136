"""Toy checkpoints behind both doors: minicpm's own, and transformers' Auto classes."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from minicpm import load_decoder
from minicpm.models.registry import parse
from minicpm.testing import families, tiny_checkpoint, tiny_config

# Without transformers (pip install 'minicpm[dev]') there is nothing to test here.
collect_ignore_glob = [] if find_spec("transformers") else ["test_*.py"]


# Further kinds: toy checkpoints of a family with something changed in their configs.
VARIANTS = {
    "sparse": (
        "minicpm4-8b",
        {
            "sparse_config": {
                "kernel_size": 8,
                "kernel_stride": 4,
                "init_blocks": 1,
                "block_size": 64,
                "window_size": 64,
                "topk": 2,
                "dense_len": 0,
            }
        },
    )
}


def kinds() -> list[str]:
    """Families the door opens, one of each kind of layers, rope and head."""
    chosen = {}
    for name in families():
        if tiny_config(name)["model_type"] in ("minicpm", "minicpm_sala"):
            shape = parse(tiny_config(name))
            parts = {
                type(part)
                for layer in shape.layers
                for part in (layer.mixer, layer.ffn, getattr(layer.ffn, "act", None))
            }
            chosen.setdefault((frozenset(parts), type(shape.rope), shape.tied), name)
    return [*chosen.values(), *VARIANTS]


def pytest_generate_tests(metafunc):
    """A test that takes `family` runs for one of every kind the door opens."""
    if "family" in metafunc.fixturenames:
        metafunc.parametrize("family", kinds())


@pytest.fixture(autouse=True, scope="session")
def _quiet():
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Toy sizes are slower on more threads, and one thread keeps sums in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """folder(family or variant, **changes of its config) -> a toy checkpoint."""
    made: dict[str, Path] = {}

    def make(family: str, **changes) -> Path:
        family, own = VARIANTS.get(family, (family, {}))
        changes |= own
        key = json.dumps([family, changes])
        if key not in made:
            made[key] = tiny_checkpoint(family, tmp_path_factory.mktemp("hf"), **changes)
        return made[key]

    return make


@pytest.fixture(scope="session")
def opened(folder):
    """opened(family) -> its toy model through the door, in eval mode; shared, so not to be changed."""
    made = {}

    def make(family: str):
        if family not in made:
            made[family] = fresh_model(folder(family))
        return made[family]

    return make


@pytest.fixture
def fresh(folder):
    """fresh(family) -> its toy model through the door, in eval mode; the test's own."""
    return lambda family, **changes: fresh_model(folder(family, **changes))


@pytest.fixture(scope="session")
def decoder(folder):
    """decoder(family) -> the same model through minicpm's own door, unprepared; shared."""
    made = {}

    def make(family: str):
        if family not in made:
            made[family] = load_decoder(folder(family), prepare=False).eval()
        return made[family]

    return make


def fresh_model(path: Path):
    from transformers import AutoModelForCausalLM

    import minicpm.hf  # noqa: F401 - registers the Auto classes

    return AutoModelForCausalLM.from_pretrained(path)


@pytest.fixture(scope="session")
def ids():
    """ids(rows, tokens) -> random ids [rows, tokens] of any toy vocabulary, no control tokens among them."""

    def make(rows: int, tokens: int, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(10, 250, (rows, tokens), generator=generator)

    return make


@pytest.fixture(scope="session")
def padded():
    """padded(rows, side, pad) -> ids [B, T] and attention_mask of rows of several lengths."""

    def make(rows, side: str, pad: int = 3):
        width = max(len(row) for row in rows)
        tokens = torch.full((len(rows), width), pad)
        mask = torch.zeros_like(tokens)
        for line, real, row in zip(tokens, mask, rows, strict=True):
            where = slice(width - len(row), None) if side == "left" else slice(len(row))
            line[where], real[where] = row, 1
        return tokens, mask

    return make


@pytest.fixture(scope="session")
def assert_near():
    """Equal up to the order of float32 sums over at most 128 terms in three or four layers."""

    def check(ours, theirs, bound=1e-5):
        assert ours.shape == theirs.shape
        found = ((ours - theirs).abs().max() / theirs.abs().max()).item()
        where = (ours - theirs).abs().flatten().argmax().item()
        assert found <= bound, f"relative difference {found:.2e} over {bound:.0e} at flat index {where}"

    return check
