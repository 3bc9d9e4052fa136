"""Toy checkpoints are complete, repeatable and usable like published ones."""

import hashlib
import json

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer

import minicpm
from minicpm.config import Embedding, Relevance
from minicpm.models.build import build
from minicpm.models.published import by_name, published
from minicpm.models.registry import parse
from minicpm.testing import families, tiny_checkpoint, tiny_config

EVERY_MODEL = pytest.mark.parametrize("family", families())


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def hashes(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def row_of(family):
    return next(row for row in published() if row.name.lower() == family)


def test_every_published_model_has_a_toy():
    every = [*families(), *families(Embedding), *families(Relevance)]
    assert sorted(every) == sorted(row.name.lower() for row in published())


@EVERY_MODEL
def test_a_toy_has_every_file_of_a_checkpoint(family, tmp_path):
    folder = tiny_checkpoint(family, tmp_path / "toy")
    index = read_json(folder / "model.safetensors.index.json")
    shards = set(index["weight_map"].values())
    others = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert {file.name for file in folder.iterdir()} == shards | {*others, "model.safetensors.index.json"}
    assert len(shards) > 1


@EVERY_MODEL
def test_shards_hold_exactly_the_published_names_the_index_lists(family, tmp_path):
    folder = tiny_checkpoint(family, tmp_path)
    index = read_json(folder / "model.safetensors.index.json")
    found, total = {}, 0
    for shard in set(index["weight_map"].values()):
        with safe_open(folder / shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                found[name] = shard
                total += file.get_tensor(name).nbytes
    assert found == index["weight_map"]
    assert total == index["metadata"]["total_size"]
    with torch.device("meta"):
        assert set(found) == set(build(parse(read_json(folder / "config.json"))).state_dict())


@EVERY_MODEL
def test_one_seed_gives_one_checkpoint_and_another_another(family, tmp_path):
    first, same = (
        hashes(tiny_checkpoint(family, tmp_path / "a", 3)),
        hashes(tiny_checkpoint(family, tmp_path / "b", 3)),
    )
    other = hashes(tiny_checkpoint(family, tmp_path / "c", 4))
    assert first == same
    changed = {name for name in first if first[name] != other[name]}
    assert changed == {name for name in first if name.endswith(".safetensors")}


@EVERY_MODEL
def test_a_toy_config_differs_from_the_published_one_in_sizes_and_tokens_alone(family):
    real, toy = row_of(family).raw, tiny_config(family)
    sizes = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}
    sizes |= {"num_key_value_heads", "dim_model_base", "head_dim", "rope_scaling"}
    sizes |= {"mixer_types", "lightning_nh", "lightning_nkv", "lightning_head_dim"}
    sizes |= {"q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim"}
    sizes |= {"image_size", "query_num", "num_query"}
    tokens = {"bos_token_id", "eos_token_id", "pad_token_id"}
    # A published tower has its sizes by its name.
    assert set(toy) - {"vision_config"} == set(real)
    assert {key for key in real if toy[key] != real[key]} <= sizes | tokens
    assert parse(toy).family == parse(real).family


def mixers(config):
    """One of each kind, in order of appearance."""
    return list({type(layer.mixer): layer.mixer for layer in config.layers}.values())


@EVERY_MODEL
def test_a_toy_keeps_what_makes_its_model_differ(family):
    real, toy = parse(row_of(family).raw), parse(tiny_config(family))
    assert type(toy.rope) is type(real.rope)
    assert (toy.tied, toy.norm_eps, toy.embed_scale, toy.context) == (
        real.tied,
        real.norm_eps,
        real.embed_scale,
        real.context,
    )
    assert [m.heads > m.kv_heads for m in mixers(toy)] == [m.heads > m.kv_heads for m in mixers(real)]
    assert (toy.logit_scale != 1) == (real.logit_scale != 1)


@EVERY_MODEL
def test_load_decoder_gives_finite_logits_for_every_position(family, tmp_path):
    decoder = minicpm.load_decoder(tiny_checkpoint(family, tmp_path), backend="reference")
    logits = decoder.logits_for([1, 5, 9, 12])
    assert logits.shape == (4, decoder.config.vocab)
    assert logits.isfinite().all()
    assert decoder.dtype == torch.float32


@EVERY_MODEL
def test_load_decoder_gives_the_logits_of_the_written_weights(family, tmp_path):
    folder = tiny_checkpoint(family, tmp_path)
    decoder = build(parse(read_json(folder / "config.json")))
    state = {}
    for shard in folder.glob("*.safetensors"):
        with safe_open(shard, framework="pt") as file:
            state |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    decoder.load_state_dict(state)
    loaded = minicpm.load_decoder(folder)
    with torch.no_grad():
        assert torch.allclose(loaded.logits_for([1, 2, 3]), decoder.logits_for([1, 2, 3]), atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_toy_is_written_in_the_dtype_asked_for(dtype, tmp_path):
    folder = tiny_checkpoint("minicpm4-0.5b", tmp_path, dtype=dtype)
    assert read_json(folder / "config.json")["torch_dtype"] == dtype
    assert minicpm.load_decoder(folder).dtype == getattr(torch, dtype)


def test_keys_of_the_config_can_be_replaced(tmp_path):
    folder = tiny_checkpoint("minicpm4-8b", tmp_path, tie_word_embeddings=True, num_hidden_layers=1)
    names = read_json(folder / "model.safetensors.index.json")["weight_map"]
    assert "lm_head.weight" not in names
    assert not any(".layers.1." in name for name in names)


def test_names_are_not_case_sensitive_and_unknown_ones_are_refused_with_the_known(tmp_path):
    assert tiny_config("MiniCPM4-8B") == tiny_config("minicpm4-8b")
    with pytest.raises(ValueError, match=r"'gpt2'; one of: minicpm-2b, "):
        tiny_checkpoint("gpt2", tmp_path)


@EVERY_MODEL
@pytest.mark.parametrize(
    "text", ["hello the 123", "你好, world", "🙂 emoji \n\n and  spaces ", "né\t\x00", ""], ids=repr
)
def test_any_text_returns_from_the_toy_tokenizer(family, text, tmp_path):
    tokenizer = Tokenizer.from_file(str(tiny_checkpoint(family, tmp_path) / "tokenizer.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert all(0 <= i < tokenizer.get_vocab_size() for i in ids)


@EVERY_MODEL
def test_the_toy_tokenizer_fits_its_config(family, tmp_path):
    folder = tiny_checkpoint(family, tmp_path)
    config = read_json(folder / "config.json")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    settings = read_json(folder / "tokenizer_config.json")
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    assert tokenizer.id_to_token(config["bos_token_id"]) == settings["bos_token"] == "<s>"
    assert tokenizer.id_to_token(config["eos_token_id"][0]) == settings["eos_token"] == "</s>"
    assert read_json(folder / "generation_config.json")["eos_token_id"] == config["eos_token_id"]


@pytest.mark.parametrize("family", ["minicpm4-8b", "minicpm4.1-8b", "minicpm5-1b", "minicpm-2b-128k"])
def test_turns_end_with_their_own_token_where_the_real_model_has_one(family, tmp_path):
    tokenizer = Tokenizer.from_file(str(tiny_checkpoint(family, tmp_path) / "tokenizer.json"))
    assert tokenizer.token_to_id("<|im_end|>") in tiny_config(family)["eos_token_id"]


def test_merges_make_words_shorter(tmp_path):
    tokenizer = Tokenizer.from_file(str(tiny_checkpoint("minicpm-2b", tmp_path) / "tokenizer.json"))
    assert len(tokenizer.encode("hello", add_special_tokens=False).ids) == 1
    assert len(tokenizer.encode("你好", add_special_tokens=False).ids) == 1


def test_real_configs_are_untouched_by_their_toys():
    before = json.dumps(by_name("MiniCPM4-8B").raw)
    tiny_config("minicpm4-8b")["rope_scaling"]["short_factor"].append(0)
    assert json.dumps(by_name("MiniCPM4-8B").raw) == before
