"""Generation through transformers: the engine's tokens, whatever the batch, the beams and the cache."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, pipeline

from minicpm import load
from minicpm.checkpoint import resolve
from minicpm.errors import BadParameter, PromptTooLong
from minicpm.hf import MiniCPMCache
from minicpm.hf.names import CACHE_NAME, cache_of

ONE = "minicpm4-8b"
NEW = 12


@pytest.fixture
def greedy():
    """greedy(model, ids, **options) -> the ids that follow, with nothing to stop early."""

    def generate(model, tokens, new=NEW, **options):
        settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 3, "max_new_tokens": new}
        return model.generate(tokens, **(settings | options))[:, tokens.shape[1] :]

    return generate


def test_greedy_tokens_are_the_engines(opened, folder, family, ids, greedy):
    prompts = ids(2, 60)
    model = load(folder(family))
    ours = model.generate(prompts.tolist(), temperature=0, max_tokens=NEW, ignore_eos=True)
    theirs = greedy(opened(family), prompts)
    assert [list(completion.token_ids) for completion in ours] == theirs.tolist()


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams"]
)
def test_the_cache_changes_no_token(opened, family, ids, greedy, options):
    """Beams are moved between rows that share pages; 70 tokens cross into the second page."""
    model, prompts = opened(family), ids(2, 62)
    cached = greedy(model, prompts, **options)
    assert torch.equal(cached, greedy(model, prompts, use_cache=False, **options))


def test_a_long_prompt_chooses_the_same_blocks_whatever_feeds_it(opened, ids, greedy, assert_near):
    model, prompts = opened("sparse"), ids(1, 300)
    cached = greedy(model, prompts, new=5, num_beams=2)
    assert torch.equal(cached, greedy(model, prompts, new=5, num_beams=2, use_cache=False))
    with torch.no_grad():
        sparse, dense = (opened(name)(prompts).logits for name in ("sparse", ONE))
    assert_near(sparse[:, :64], dense[:, :64])
    assert (sparse - dense)[:, -1].abs().max() > 1e-2, "all blocks were read"


def test_sampling_is_the_same_with_and_without_a_cache(opened, ids, greedy):
    model, prompts = opened(ONE), ids(3, 20)
    drawn = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        drawn.append(greedy(model, prompts, do_sample=True, temperature=1.5, top_p=0.9, use_cache=use_cache))
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], greedy(model, prompts))


def test_a_left_padded_batch_says_what_each_prompt_gets_alone(opened, family, ids, padded, greedy):
    model, prompts = opened(family), [ids(1, count, seed=count)[0] for count in (3, 40, 65)]
    tokens, mask = padded(prompts, "left")
    together = greedy(model, tokens, attention_mask=mask)
    alone = torch.cat([greedy(model, prompt[None]) for prompt in prompts])
    assert torch.equal(together, alone)


def test_guessing_ahead_changes_no_token(opened, ids, greedy):
    model = opened(ONE)
    prompt = ids(1, 6).repeat(1, 6)
    plain = greedy(model, prompt, new=40)
    assert torch.equal(plain, greedy(model, prompt, new=40, prompt_lookup_num_tokens=4))
    assert torch.equal(plain, greedy(model, prompt, new=40, assistant_model=opened("minicpm4-0.5b")))


def test_a_conversation_goes_on_from_its_cache(opened, family, ids, greedy):
    model, first, second = opened(family), ids(1, 30), ids(1, 9, seed=1)
    cache = MiniCPMCache()
    answer = greedy(model, first, **{CACHE_NAME: cache})
    assert cache.get_seq_length() == first.shape[1] + NEW - 1
    told = torch.cat((first, answer, second), dim=1)
    assert torch.equal(greedy(model, told, **{CACHE_NAME: cache}), greedy(model, told))


def test_one_prefix_serves_many_continuations(opened, ids, greedy):
    model, prefix = opened(ONE), ids(1, 50)
    with torch.no_grad():
        held = cache_of(model(prefix))
    for seed in (1, 2):
        told = torch.cat((prefix, ids(1, 5, seed=seed)), dim=1)
        assert torch.equal(greedy(model, told, **{CACHE_NAME: copy.deepcopy(held)}), greedy(model, told))


def test_prefill_in_chunks_changes_no_token(opened, ids, greedy):
    model, prompt = opened(ONE), ids(2, 50)
    assert torch.equal(greedy(model, prompt, prefill_chunk_size=16), greedy(model, prompt))


def test_embeddings_can_be_continued(opened, ids, greedy):
    model, prompt = opened(ONE), ids(2, 20)
    embeds = model.get_input_embeddings()(prompt).detach() * model.config.scale_emb
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 3, "max_new_tokens": NEW}
    assert torch.equal(model.generate(inputs_embeds=embeds, **settings), greedy(model, prompt))


def test_caches_of_other_kinds_are_refused(opened, ids, greedy):
    model, prompt = opened(ONE), ids(1, 5)
    with pytest.raises(BadParameter, match="cache_implementation is 'static'"):
        greedy(model, prompt, cache_implementation="static")
    with pytest.raises(BadParameter, match=r"is a DynamicCache.*MiniCPMCache"):
        greedy(model, prompt, **{CACHE_NAME: DynamicCache()})


def test_nano_says_the_same_through_both_doors(greedy):
    path = resolve("nano")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ours = load("nano").generate(prompt["input_ids"].tolist(), temperature=0, max_tokens=8, ignore_eos=True)
    assert greedy(model, prompt["input_ids"], new=8)[0].tolist() == list(ours[0].token_ids)
    answer, history = model.chat(tokenizer, turns[0]["content"], do_sample=False)
    assert "Paris" in answer
    assert history == [*turns, {"role": "assistant", "content": answer}]


def test_a_pipeline_generates(opened, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder(ONE))
    tokenizer.pad_token = "</s>"
    generate = pipeline("text-generation", model=opened(ONE), tokenizer=tokenizer)
    texts = generate(["hello", "hello the 你好"], max_new_tokens=3, do_sample=False, batch_size=2)
    assert [len(text) for text in texts] == [1, 1]
    assert texts[0][0]["generated_text"].startswith("hello")


def test_chat_takes_the_published_arguments_and_leaves_the_history_alone(opened, folder):
    model, tokenizer = opened("minicpm-2b"), AutoTokenizer.from_pretrained(folder("minicpm-2b"))
    torch.manual_seed(0)
    before = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "the"}]
    response, history = model.chat(
        tokenizer, "你好", history=before, role="user", max_length=90, top_p=0.8, temperature=0.3
    )
    assert len(before) == 2
    assert history[:3] == [*before, {"role": "user", "content": "你好"}]
    assert history[3:] == [{"role": "assistant", "content": response}]


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("all of it", "all of it"),
        ("the answer<用户>and more<AI>", "the answer"),
        ("the answer<AI>", "the answer"),
        ("ended</s>", "ended"),
    ],
)
def test_chat_ends_where_the_next_turn_begins(opened, folder, monkeypatch, said, answer):
    model, tokenizer = opened("minicpm-2b"), AutoTokenizer.from_pretrained(folder("minicpm-2b"))
    asked = {}

    def generate(self, input_ids, **options):
        asked.update(options, prompt=tokenizer.decode(input_ids[0]), length=input_ids.shape[1])
        return torch.cat((input_ids, tokenizer(said, return_tensors="pt")["input_ids"]), dim=1)

    monkeypatch.setattr(type(model), "generate", generate)
    assert model.chat(tokenizer, " hi ")[0] == answer
    assert asked["prompt"] == "<用户>hi<AI>"
    assert asked["length"] + asked["max_new_tokens"] == 4096
    wanted = {"do_sample": True, "top_p": 0.8, "temperature": 0.3, "num_beams": 1}
    assert wanted.items() <= asked.items()


def test_chat_refuses_a_conversation_that_leaves_no_room(opened, folder):
    model, tokenizer = opened("minicpm-2b"), AutoTokenizer.from_pretrained(folder("minicpm-2b"))
    with pytest.raises(PromptTooLong, match="max_length 9 bounds prompt and answer"):
        model.chat(tokenizer, "hello hello hello", max_length=9)
