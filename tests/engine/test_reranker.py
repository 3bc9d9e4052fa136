"""Documents get the scores of their model: pairs, limits, scales and batches."""

import json
from pathlib import Path

import pytest
import torch

import minicpm
from minicpm.cache import Batch
from minicpm.checkpoint import load_as, open_checkpoint, save
from minicpm.engine.reranker import LocalReranker
from minicpm.errors import BadParameter, PromptTooLong, WrongKind
from minicpm.models.pooled import RerankingModel
from minicpm.testing import tiny_checkpoint
from minicpm.text.chat import Reranker

DOCUMENTS = ["hello", "你好, the world", "1" * 200, "", "the 1", "hello the llo", "x" * 61]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("minicpm-reranker", tmp_path_factory.mktemp("reranker") / "toy")


@pytest.fixture(scope="module")
def reranker(checkpoint: Path) -> LocalReranker:
    return minicpm.load_reranker(checkpoint)


def test_it_is_a_reranker(reranker):
    assert isinstance(reranker, Reranker)


@pytest.mark.parametrize(
    ("instruction", "asked"),
    [(None, "Query: what 你好"), ("Find it.", "Instruction: Find it. Query: what 你好")],
)
def test_a_pair_is_bos_query_eos_document(reranker, instruction, asked):
    encode, special = reranker.tokenizer.encode, reranker.tokenizer.special_ids
    ids = [special["<s>"], *encode(asked), special["</s>"], *encode("hello the")]
    with torch.inference_mode():
        wanted = reranker.model.scores(Batch.of_sequences(torch.tensor(ids))).tolist()
    assert reranker.rank("what 你好", ["hello the"], instruction=instruction) == wanted


@pytest.mark.parametrize("batch_tokens", [1, 100, 100_000])
def test_scores_keep_their_order_and_their_bits_however_documents_are_batched(reranker, batch_tokens):
    alone = [reranker.rank("the", [document])[0] for document in DOCUMENTS]
    batched = LocalReranker(reranker.model, reranker.tokenizer, batch_tokens=batch_tokens)
    assert batched.rank("the", DOCUMENTS) == alone
    assert batched.rank("the", DOCUMENTS[::-1]) == alone[::-1]
    assert len(set(alone)) == len(alone)


def test_a_probability_is_the_sigmoid_of_the_logit(reranker):
    logits = torch.tensor(reranker.rank("the", DOCUMENTS))
    assert reranker.rank("the", DOCUMENTS, scale="probability") == logits.sigmoid().tolist()


def test_an_unknown_scale_is_refused(reranker):
    with pytest.raises(BadParameter, match=r"'percent'.*logit or probability"):
        reranker.rank("the", DOCUMENTS, scale="percent")


def test_the_config_may_have_the_last_token_judged(checkpoint, reranker, tmp_path):
    other = tiny_checkpoint("minicpm-reranker", tmp_path / "last", pooled_token="last")
    assert minicpm.load_reranker(other).rank("the", DOCUMENTS) != reranker.rank("the", DOCUMENTS)


def test_the_config_may_name_another_separator(reranker, tmp_path):
    folder = tiny_checkpoint("minicpm-reranker", tmp_path / "other", separator_token_id=9)
    other = minicpm.load_reranker(folder)
    encode = other.tokenizer.encode
    ids = [other.tokenizer.bos_id, *encode("Query: the"), 9, *encode("1")]
    with torch.inference_mode():
        wanted = other.model.scores(Batch.of_sequences(torch.tensor(ids))).tolist()
    assert other.rank("the", ["1"]) == wanted


def test_a_pair_at_the_limit_passes_and_one_beyond_is_refused_with_the_numbers(reranker):
    room = 1024 - 2 - len(reranker.tokenizer.encode("Query: the"))
    assert len(reranker.rank("the", ["1" * room])) == 1
    with pytest.raises(PromptTooLong) as refusal:
        reranker.rank("the", ["1", "1" * (room + 1)])
    for part in ("1 of 2 documents with their query", "1,024 tokens", "number 2 has 1,025", "--truncate"):
        assert part in str(refusal.value)


def test_truncation_cuts_the_document_and_leaves_short_ones_alone(reranker):
    room = 1024 - 2 - len(reranker.tokenizer.encode("Query: the"))
    found = reranker.rank("the", ["2" + "1" * 3000, "1"], truncate=True)
    assert found == reranker.rank("the", ["2" + "1" * (room - 1), "1"])


def test_truncation_cuts_a_query_to_half_of_the_limit_only_where_the_document_needs_it(reranker):
    start = len(reranker.tokenizer.encode("Query: "))
    short = reranker.rank("1" * 2000, ["3"], truncate=True)
    assert short == reranker.rank("1" * (1024 - 2 - 1 - start), ["3"])
    long = reranker.rank("1" * 2000, ["3" * 2000], truncate=True)
    assert long == reranker.rank("1" * (511 - start), ["3" * 511])


def test_a_lower_limit_can_be_asked_for(checkpoint):
    with pytest.raises(PromptTooLong, match="64 tokens"):
        minicpm.load_reranker(checkpoint, context=64).rank("the", ["1" * 100])


def test_no_documents_give_no_scores(reranker):
    assert reranker.rank("the", []) == []


def test_one_document_in_place_of_a_list_is_refused(reranker):
    with pytest.raises(BadParameter, match=r"documents must be a list.*write \[text\]"):
        reranker.rank("the", "document")


def test_progress_counts_documents(reranker):
    calls = []
    reranker.rank("the", DOCUMENTS, report=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (len(DOCUMENTS), len(DOCUMENTS))


def test_saved_and_opened_again_it_gives_the_same_scores(checkpoint, reranker, tmp_path):
    model = load_as(RerankingModel, open_checkpoint(checkpoint))
    folder = save(model, tmp_path / "saved", source=checkpoint)
    assert "score.weight" in json.dumps(sorted(open_checkpoint(folder).tensors))
    assert minicpm.load_reranker(folder).rank("the", DOCUMENTS) == reranker.rank("the", DOCUMENTS)


def test_a_model_opened_as_another_kind_says_which_function_to_use(checkpoint):
    for opener in (minicpm.load, minicpm.load_decoder, minicpm.load_embedder):
        with pytest.raises(WrongKind, match=r"minicpm\.load_reranker.*`minicpm rerank`"):
            opener(checkpoint)
