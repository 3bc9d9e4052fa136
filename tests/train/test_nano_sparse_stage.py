"""The sparse and the dense nano are one set of weights."""

import torch

from minicpm.cache import Batch
from minicpm.config import GQA, InfLLM
from minicpm.models.decoder import Decoder
from minicpm.train.nano.model import config, sharing
from minicpm.train.nano.recipe import Recipe


def test_training_either_decoder_trains_both():
    dense = Decoder(config(400, sparse=False))
    sparse = sharing(dense, config(400))
    assert isinstance(dense.config.layers[0].mixer, GQA)
    assert isinstance(sparse.config.layers[0].mixer, InfLLM)
    pairs = zip(dense.parameters(), sparse.parameters(), strict=True)
    assert all(one is other for one, other in pairs)
    sparse(Batch.of_sequences(torch.arange(40))).sum().backward()
    assert all(p.grad is not None for name, p in dense.named_parameters() if "lm_head" not in name)


def test_the_rate_falls_in_the_sparse_stage_alone():
    recipe = Recipe()
    for end, stage in recipe.stages():
        falls = recipe.schedule.factor(end - 1) < 1
        assert falls == stage.sparse == (stage.name == "chat")
