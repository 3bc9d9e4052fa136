"""Requests choose an adapter each, share batches, and never share what another adapter computed."""

from typing import Any

import pytest
import torch

from minicpm import load
from minicpm.cache import Batch, Segment
from minicpm.checkpoint import load_decoder
from minicpm.checkpoint.adapters import attach, open_adapter
from minicpm.engine.engine import Engine
from minicpm.engine.request import Request
from minicpm.engine.sampling import SamplingParams
from minicpm.errors import BadParameter
from minicpm.testing import tiny_adapter

PROMPT = list(range(20, 60))
USERS = (None, "one", "two")


@pytest.fixture(scope="module")
def adapters(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapters")
    return {
        "one": tiny_adapter(path / "one", folder, seed=1),
        "two": tiny_adapter(path / "two", folder, ("gate_proj", "o_proj"), seed=2, use_dora=True),
    }


@pytest.fixture(scope="module")
def adapted(folder, adapters):
    decoder = load_decoder(folder, dtype="float32")
    for name, path in adapters.items():
        attach(decoder, name, open_adapter(path))
    return decoder


def request(prompt, adapter, count=12, **options: Any):
    return Request(prompt, SamplingParams(temperature=0, max_tokens=count, **options), adapter=adapter)


@torch.inference_mode()
def continued(decoder, prompt, adapter, count=12):
    """The naive model: the whole sequence again for every token."""
    ids = list(prompt)
    for _ in range(count):
        hidden = decoder(Batch(torch.tensor(ids), (Segment(None, 0, len(ids), adapter),)))
        ids.append(int(decoder.logits(hidden[-1:]).argmax()))
    return ids[len(prompt) :]


def test_requests_of_one_batch_get_the_adapter_they_name(adapted, decoder):
    engine = Engine(adapted, pages=32, max_batch_tokens=24)
    prompts = [PROMPT[i:] for i in range(6)]
    streams = [engine.submit(request(p, USERS[i % 3])) for i, p in enumerate(prompts)]
    engine.run()
    for i, (prompt, stream) in enumerate(zip(prompts, streams, strict=True)):
        assert list(stream.result().samples[0].token_ids) == continued(adapted, prompt, USERS[i % 3])
    assert len({tuple(continued(adapted, PROMPT, user)) for user in USERS}) == 3
    assert continued(adapted, PROMPT, None) == continued(decoder, PROMPT, None)


def test_a_prefix_is_reused_by_the_same_adapter_only(adapted):
    engine = Engine(adapted, pages=32)

    def cached(adapter):
        result = engine.submit(request(PROMPT, adapter, count=2)).result()
        return result.cached_tokens

    assert [cached(user) for user in USERS] == [0, 0, 0]
    assert [cached(user) for user in USERS] == [len(PROMPT) - 1] * 3


def test_a_running_sequence_shares_with_the_same_adapter_only(adapted):
    engine = Engine(adapted, pages=32)
    running = [engine.submit(request(PROMPT, user, count=30)) for user in ("one", None)]
    for _ in range(3):
        engine.step()
    late = [engine.submit(request([*PROMPT, 7], user, count=2)) for user in ("two", "one", None)]
    engine.run()
    assert [stream.result().cached_tokens for stream in late] == [0, len(PROMPT), len(PROMPT)]
    assert all(stream.result().samples[0].token_ids for stream in running)


def test_samples_of_one_request_share_its_prompt(adapted):
    engine = Engine(adapted, pages=32, prefix_cache=False)
    result = engine.submit(request(PROMPT, "one", count=5, n=3)).result()
    assert {sample.token_ids for sample in result.samples} == {tuple(continued(adapted, PROMPT, "one", 5))}


def test_an_unknown_adapter_is_refused_when_it_is_asked_for(adapted):
    engine = Engine(adapted, pages=4)
    with pytest.raises(BadParameter, match=r"no adapter 'three'\. Loaded ones: one, two"):
        engine.submit(request(PROMPT, "three"))
    assert engine.idle


def test_a_model_is_loaded_with_adapters_and_used_by_name(folder, adapters):
    model = load(folder, adapters=adapters, dtype="float32")
    texts = {
        user: model.generate("hello", adapter=user, temperature=0, max_tokens=8)[0].token_ids
        for user in USERS
    }
    assert len(set(texts.values())) == 3
    with model.stream("hello", adapter="one", temperature=0, max_tokens=8) as stream:
        assert stream.result().samples[0].token_ids == texts["one"]
    answers = {model.chat("hello", adapter=user, temperature=0, max_tokens=8).text for user in USERS}
    assert len(answers) == 3
    scores = {model.score("hello the", adapter=user).total for user in USERS}
    assert len(scores) == 3
    with pytest.raises(BadParameter, match="no adapter 'rag'"):
        model.generate("hello", adapter="rag")


def test_a_merged_adapter_needs_no_name(folder, adapters):
    beside, merged = load(folder, adapters={"a": adapters["two"]}), load(folder, merged=adapters["two"])
    options = {"temperature": 0, "max_tokens": 8}
    wanted = beside.generate("hello", adapter="a", **options)[0].token_ids
    assert merged.generate("hello", **options)[0].token_ids == wanted


def test_an_adapter_of_another_base_is_noted(folder, tmp_path):
    path = tiny_adapter(tmp_path / "x", folder, base_model_name_or_path="openbmb/MiniCPM3-4B")
    assert any("made for openbmb/MiniCPM3-4B" in note for note in load(folder, adapters={"x": path}).notes)
