"""What tests of quantizing share: the model inside the package, toys, and runs that are counted."""

import json

import pytest
import torch
from tokenizers import Tokenizer

from minicpm.checkpoint import open_checkpoint, resolve
from minicpm.convert.texts import Sequences
from minicpm.testing import tiny_checkpoint
from minicpm.train.nano.corpus import CHAT, shard
from minicpm.train.nano.encode import encode_samples


@pytest.fixture(autouse=True)
def one_thread():
    """Products of toys are quicker on one, and sums have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def nano():
    """The checkpoint inside the package."""
    return open_checkpoint(resolve("nano"))


@pytest.fixture
def toy(tmp_path):
    """A toy checkpoint by the name of what it is a toy of; bfloat16, as published ones are."""

    def make(name="minicpm4-0.5b", **changes):
        return open_checkpoint(tiny_checkpoint(name, tmp_path / name, dtype="bfloat16", **changes))

    return make


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A calibration text that toy tokenizers hold: letters, blanks and digits."""
    words = ["alpha", "beta", "gamma", "delta", "one", "two", "three", "of", "and", "the"]
    lines = [" ".join(words[(i * k) % 10] for k in range(1, 40)) for i in range(1, 30)]
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": line}) for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def conversations(nano):
    """What nano's generator writes with a seed, in nano's own format; its answers are what counts."""

    def make(seed, tokens):
        tokenizer = Tokenizer.from_file(str(nano.path / "tokenizer.json"))
        chosen, left = [], tokens
        for sample in encode_samples(tokenizer, shard(seed, 0, CHAT, size=1 + tokens // 40)):
            if len(sample.ids) <= left:
                chosen.append(sample)
                left -= len(sample.ids)
        ids, learn = zip(*chosen, strict=True)
        return Sequences(tuple(map(torch.tensor, ids)), f"seed {seed}", tuple(map(torch.tensor, learn)))

    return make
