"""A loaded model attends sparsely where that is asked for, and the engine's ways of computing agree on it."""

import pytest

from minicpm import load, load_decoder
from minicpm.config import GQA, InfLLM, SparseConfig
from minicpm.errors import BadParameter
from minicpm.testing import tiny_checkpoint

# Four blocks of 64 tokens: the first, two local ones and one that is chosen, from position 256 on.
GEOMETRY = {"window_size": 64, "topk": 3, "dense_len": -1}
PROMPTS = [
    [1 + (7 * i * i + 3 * i + seed) % 200 for i in range(n)] for seed, n in ((0, 420), (5, 300), (9, 20))
]


@pytest.fixture(scope="module")
def sparse_folder(tmp_path_factory):
    return tiny_checkpoint("minicpm4-8b", tmp_path_factory.mktemp("sparse") / "tiny", sparse_config=GEOMETRY)


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    return tiny_checkpoint("minicpm4-8b", tmp_path_factory.mktemp("plain") / "tiny")


def mixers(decoder):
    return [layer.mixer for layer in decoder.config.layers]


def test_modes_of_a_checkpoint_with_a_geometry(sparse_folder):
    assert all(isinstance(m, InfLLM) for m in mixers(load_decoder(sparse_folder)))
    assert all(isinstance(m, InfLLM) for m in mixers(load_decoder(sparse_folder, sparse="on")))
    assert all(isinstance(m, GQA) for m in mixers(load_decoder(sparse_folder, sparse="off")))


def test_modes_of_a_checkpoint_without_one(plain_folder):
    assert all(isinstance(m, GQA) for m in mixers(load_decoder(plain_folder)))
    assert {m.sparse for m in mixers(load_decoder(plain_folder, sparse="on"))} == {SparseConfig()}


def test_an_unknown_mode_is_refused(plain_folder):
    with pytest.raises(BadParameter, match="auto, on, off"):
        load_decoder(plain_folder, sparse="always")


def generated(folder, **options):
    model = load(folder, pages=40, **options)
    return [c.token_ids for c in model.generate(PROMPTS, max_tokens=12, temperature=0.0, ignore_eos=True)]


def test_batches_chunks_and_cached_prefixes_give_what_one_prompt_alone_gives(sparse_folder):
    alone = load(sparse_folder, pages=40, prefix_cache=False, max_batch_tokens=4096)
    wanted = [
        alone.generate([p], max_tokens=12, temperature=0.0, ignore_eos=True)[0].token_ids for p in PROMPTS
    ]
    assert generated(sparse_folder, max_batch_tokens=37) == wanted
    again = load(sparse_folder, pages=40)
    for _ in range(2):
        found = again.generate(PROMPTS, max_tokens=12, temperature=0.0, ignore_eos=True)
        assert [c.token_ids for c in found] == wanted
    assert generated(sparse_folder, sparse="off") != wanted
