"""Texts become the vectors of their model: inputs, limits, batches and files as published."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import minicpm
from minicpm.checkpoint import load_as, open_checkpoint, save
from minicpm.engine.embedder import LocalEmbedder
from minicpm.engine.pooling import in_order
from minicpm.errors import (
    BadParameter,
    MessageError,
    PromptTooLong,
    StepFailed,
    TokenizerMismatch,
    WeightMismatch,
    WrongKind,
)
from minicpm.models.pooled import EmbeddingModel
from minicpm.testing import tiny_checkpoint
from minicpm.text.chat import Embedder
from minicpm.text.query import query_text

TEXTS = ["hello", "你好, the world", "1" * 200, "", "the 1", "hello the llo", "x" * 61, "🙂"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy embedding model; nothing in it may be changed."""
    return tiny_checkpoint("minicpm-embedding", tmp_path_factory.mktemp("embedding") / "toy")


@pytest.fixture(scope="module")
def embedder(checkpoint: Path) -> LocalEmbedder:
    return minicpm.load_embedder(checkpoint)


def rewrite(source: Path, target: Path, change, **config) -> Path:
    """A copy with other config keys and with the tensors that `change` gives, in one file."""
    shutil.copytree(source, target)
    tensors = {}
    for shard in target.glob("*.safetensors"):
        tensors |= load_file(shard)
        shard.unlink()
    (target / "model.safetensors.index.json").unlink()
    save_file(change(tensors), target / "model.safetensors")
    raw = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(raw | config))
    return target


def same(tensors):
    return tensors


def test_it_is_an_embedder(embedder):
    assert isinstance(embedder, Embedder)
    assert embedder.dimension == embedder.config.hidden == 64


@torch.inference_mode()
def test_a_text_is_its_bos_and_its_tokens_and_nothing_after(embedder):
    ids = embedder.tokenizer.encode("hello the")
    wanted = embedder.model.embeddings(_batch([embedder.tokenizer.bos_id, *ids]))[0]
    assert embedder.embed(["hello the"]) == [wanted.tolist()]


@torch.inference_mode()
def test_an_empty_text_is_its_bos_alone(embedder):
    wanted = embedder.model.embeddings(_batch([embedder.tokenizer.bos_id]))[0]
    assert embedder.embed([""]) == [wanted.tolist()]


@torch.inference_mode()
def test_a_token_that_closes_texts_is_the_configs(checkpoint, tmp_path):
    embedder = minicpm.load_embedder(rewrite(checkpoint, tmp_path / "ends", same, end_token="</s>"))
    start, end = embedder.tokenizer.bos_id, embedder.tokenizer.special_ids["</s>"]
    wanted = embedder.model.embeddings(_batch([start, *embedder.tokenizer.encode("the"), end]))[0]
    assert embedder.embed(["the"]) == [wanted.tolist()]


def test_a_closing_token_that_the_tokenizer_lacks_is_refused(checkpoint, tmp_path):
    with pytest.raises(TokenizerMismatch, match=r"'<\|im_end\|>'.*end_token"):
        minicpm.load_embedder(rewrite(checkpoint, tmp_path / "ends", same, end_token="<|im_end|>"))


def test_control_tokens_spelled_in_a_text_are_text(embedder):
    assert embedder.embed(["</s>"]) != embedder.embed([""])
    assert len(embedder.tokenizer.encode("</s>")) > 1


@pytest.mark.parametrize(
    ("instruction", "prefix"),
    [(None, "Query: hello"), ("找出答案", "Instruction: 找出答案 Query: hello")],
)
def test_a_query_is_marked_as_one(embedder, instruction, prefix):
    assert query_text("hello", instruction) == prefix
    assert embedder.embed_queries(["hello"], instruction=instruction) == embedder.embed([prefix])
    assert embedder.embed_queries(["hello"]) != embedder.embed(["hello"])


@pytest.mark.parametrize("batch_tokens", [1, 50, 300, 100_000])
def test_vectors_keep_their_order_and_their_bits_however_texts_are_batched(embedder, batch_tokens):
    alone = [embedder.embed([text])[0] for text in TEXTS]
    batched = LocalEmbedder(embedder.model, embedder.tokenizer, batch_tokens=batch_tokens)
    assert batched.embed(TEXTS) == alone
    assert batched.embed(TEXTS[::-1]) == alone[::-1]


def test_a_batch_holds_texts_of_like_length_within_its_budget(embedder):
    seen = []

    def run(batch):
        seen.append([segment.count for segment in batch.segments])
        return torch.zeros(len(batch.segments), 1)

    sequences = [[1] * n for n in (3, 90, 5, 4, 60, 3, 2, 200, 1)]
    for _ in in_order(run, sequences, device=torch.device("cpu"), batch_tokens=100, report=None):
        pass
    assert seen == [[1, 2, 3, 3, 4, 5, 60], [90], [200]]


def test_a_window_is_given_before_the_next_is_computed():
    computed = []

    def run(batch):
        computed.extend(segment.count for segment in batch.segments)
        return torch.tensor([float(segment.count) for segment in batch.segments])

    sequences = [[1] * n for n in (9, 4, 7) * 20]
    results = in_order(run, sequences, device=torch.device("cpu"), batch_tokens=10, report=None)
    assert next(results).item() == 9
    assert len(computed) < len(sequences)
    assert [9.0, *(x.item() for x in results)] == [float(len(ids)) for ids in sequences]


def test_progress_counts_texts_up_to_all_of_them(embedder):
    calls = []
    small = LocalEmbedder(embedder.model, embedder.tokenizer, batch_tokens=64)
    small.embed(TEXTS, report=lambda done, total: calls.append((done, total)))
    done = [count for count, _ in calls]
    assert done == sorted(set(done))
    assert calls[-1] == (len(TEXTS), len(TEXTS))
    assert {total for _, total in calls} == {len(TEXTS)}


def test_no_texts_give_no_vectors(embedder):
    assert embedder.embed([]) == []


def test_a_text_at_the_limit_passes_and_one_beyond_is_refused_with_the_numbers(embedder):
    fits, long = "1" * 511, "1" * 512
    assert len(embedder.embed([fits])) == 1
    with pytest.raises(PromptTooLong) as refusal:
        embedder.embed([fits, long, "the", long + "1"])
    message = str(refusal.value)
    for part in ("2 of 4 texts", "512 tokens", "number 2 has 513", "number 4 has 514", "Nothing is cut"):
        assert part in message


def test_many_long_texts_are_refused_in_a_short_message(embedder):
    with pytest.raises(PromptTooLong, match=r"40 of 40 texts.*and 35 more") as refusal:
        embedder.embed(["1" * 600] * 40)
    assert len(str(refusal.value)) < 500


def test_long_texts_are_refused_before_anything_is_computed(embedder):
    calls = []
    with pytest.raises(PromptTooLong):
        embedder.stream(["the", "1" * 600], report=lambda *numbers: calls.append(numbers))
    assert calls == []


def test_truncation_keeps_the_beginning_and_leaves_short_texts_alone(embedder):
    found = embedder.embed(["1" * 700, "the"], truncate=True)
    assert found == embedder.embed(["1" * 511, "the"])


def test_truncation_keeps_the_closing_token(checkpoint, tmp_path):
    folder = rewrite(checkpoint, tmp_path / "ends", same, end_token="</s>")
    embedder = minicpm.load_embedder(folder, context=20)
    assert embedder.embed(["1" * 700], truncate=True) == embedder.embed(["1" * 18])
    with pytest.raises(PromptTooLong, match="20 tokens"):
        embedder.embed(["1" * 19])


def test_a_limit_that_holds_no_text_refuses_even_truncated_ones(checkpoint, tmp_path):
    folder = rewrite(checkpoint, tmp_path / "ends", same, end_token="</s>")
    with pytest.raises(PromptTooLong, match="number 1 has 2"):
        minicpm.load_embedder(folder, context=1).embed(["the"], truncate=True)


def test_a_context_beyond_the_models_is_refused(checkpoint):
    with pytest.raises(BadParameter, match="reaches 512"):
        minicpm.load_embedder(checkpoint, context=513)


def test_one_text_in_place_of_a_list_is_refused(embedder):
    for call in (embedder.embed, embedder.embed_queries):
        with pytest.raises(BadParameter, match=r"write \[text\]"):
            call("hello")


def test_text_without_a_utf8_form_is_refused(embedder):
    with pytest.raises(MessageError, match="surrogate"):
        embedder.embed(["\ud800"])


def test_a_batch_of_no_tokens_is_refused(embedder):
    with pytest.raises(BadParameter, match="batch_tokens must be at least 1, not 0"):
        LocalEmbedder(embedder.model, embedder.tokenizer, batch_tokens=0)


def test_weights_that_overflow_are_reported_and_not_given_as_vectors(checkpoint, tmp_path):
    def grow(tensors):
        return {
            n: w * (1e30 if n.endswith(("gate_proj.weight", "up_proj.weight")) else 1)
            for n, w in tensors.items()
        }

    embedder = minicpm.load_embedder(rewrite(checkpoint, tmp_path / "large", grow))
    with pytest.raises(StepFailed, match="float32"):
        embedder.embed(["hello"])


def test_files_without_the_prefix_give_the_same_vectors(checkpoint, embedder, tmp_path):
    def bare(tensors):
        return {name.removeprefix("model."): weight for name, weight in tensors.items()}

    folder = rewrite(checkpoint, tmp_path / "bare", bare)
    assert minicpm.load_embedder(folder).embed(TEXTS) == embedder.embed(TEXTS)


def test_a_head_for_sparse_vectors_and_rotary_tables_are_known_and_not_used(checkpoint, embedder, tmp_path):
    def light(tensors):
        bare = {name.removeprefix("model."): weight for name, weight in tensors.items()}
        return bare | {
            "head.weight": torch.ones(1, 64),
            "layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        }

    folder = rewrite(checkpoint, tmp_path / "light", light)
    assert minicpm.load_embedder(folder).embed(TEXTS) == embedder.embed(TEXTS)


@pytest.mark.parametrize("changed", ["one bare", "one more", "one less", "one too wide"])
def test_loading_is_strict_all_the_same(checkpoint, tmp_path, changed):
    def spoil(tensors):
        tensors = dict(tensors)
        weight = tensors.pop("model.norm.weight")
        match changed:
            case "one bare":
                return tensors | {"norm.weight": weight}
            case "one more":
                return tensors | {"model.norm.weight": weight, "score.weight": torch.ones(1, 64)}
            case "one too wide":
                return tensors | {"model.norm.weight": torch.ones(65)}
        return tensors

    name = "score.weight" if changed == "one more" else "model.norm.weight"
    with pytest.raises(WeightMismatch, match=name):
        minicpm.load_embedder(rewrite(checkpoint, tmp_path / "spoilt", spoil))


def test_saved_and_opened_again_it_gives_the_same_vectors(checkpoint, embedder, tmp_path):
    model = load_as(EmbeddingModel, open_checkpoint(checkpoint))
    again = minicpm.load_embedder(save(model, tmp_path / "saved", source=checkpoint))
    assert again.embed(TEXTS) == embedder.embed(TEXTS)


def test_a_model_opened_as_another_kind_says_which_function_to_use(checkpoint):
    for opener in (minicpm.load, minicpm.load_decoder, minicpm.load_reranker):
        with pytest.raises(WrongKind, match=r"minicpm\.load_embedder.*`minicpm embed`"):
            opener(checkpoint)
    with pytest.raises(WrongKind, match=r"minicpm\.load or minicpm\.load_decoder.*`minicpm chat`"):
        minicpm.load_embedder("nano")


def test_the_reference_backend_gives_the_same_vectors(checkpoint, embedder):
    reference = minicpm.load_embedder(checkpoint, backend="reference").embed(TEXTS)
    # Float32 sums in another order over three layers, on values of at most 1.
    assert torch.allclose(torch.tensor(reference), torch.tensor(embedder.embed(TEXTS)), atol=1e-5)


def _batch(ids):
    from minicpm.cache import Batch

    return Batch.of_sequences(torch.tensor(ids))
