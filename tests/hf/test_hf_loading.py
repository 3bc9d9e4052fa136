"""transformers opens our folders without remote code, and what it saves both sides open again."""

import copy
import json
import math

import pytest
import torch
import transformers
from safetensors import safe_open
from tokenizers import Tokenizer as RawTokenizer
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

import minicpm.hf
from minicpm import load_decoder
from minicpm.errors import UnknownModel, UnreadConfig
from minicpm.hf.config import read_shape
from minicpm.models import registry
from minicpm.testing import tiny_checkpoint, tiny_config


def test_auto_classes_open_every_family_with_published_names(opened, decoder, family):
    model = opened(family)
    assert isinstance(model, minicpm.hf.MiniCPMForCausalLM)
    theirs = dict(decoder(family).named_parameters())
    assert {name for name, _ in model.named_parameters()} == set(theirs)
    assert all(torch.equal(weight, theirs[name]) for name, weight in model.named_parameters())
    assert not model.training


def test_logits_are_the_decoders(opened, decoder, family, ids, assert_near):
    model = opened(family)
    tokens = ids(2, 70)
    with torch.no_grad():
        for use_cache in (False, True):
            ours = torch.stack([decoder(family).logits_for(row) for row in tokens])
            assert_near(model(tokens, use_cache=use_cache).logits, ours)


def test_logits_equal_transformers_llama_through_the_mup_fold(opened, folder, ids, assert_near):
    """An oracle that shares nothing with us: embeddings, branches and head scaled in the weights."""
    raw, model = tiny_config("minicpm-2b"), opened("minicpm-2b")
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = {name: raw[name] for name in (*names, "num_key_value_heads", "rms_norm_eps")}
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, tie_word_embeddings=False)).eval()
    residual = raw["scale_depth"] / math.sqrt(raw["num_hidden_layers"])
    state = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    embedding = state["model.embed_tokens.weight"]
    state["lm_head.weight"] = embedding * (raw["dim_model_base"] / raw["hidden_size"])
    state["model.embed_tokens.weight"] = embedding * raw["scale_emb"]
    branches = [name for name in state if name.endswith(("o_proj.weight", "down_proj.weight"))]
    llama.load_state_dict(state | {name: state[name] * residual for name in branches})
    tokens = ids(2, 40)
    mask = torch.ones_like(tokens)
    mask[0, :7] = 0
    with torch.no_grad():
        ours, theirs = (m(tokens, attention_mask=mask).logits[mask.bool()] for m in (model, llama))
    assert_near(ours, theirs)


def test_dtype_and_device_map_are_transformers_own(folder):
    pytest.importorskip("accelerate", reason="device_map needs it; pip install 'minicpm[train]'")
    model = AutoModelForCausalLM.from_pretrained(
        folder("minicpm4-8b"), dtype=torch.bfloat16, device_map="cpu"
    )
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert model(torch.tensor([[1, 2]])).logits.dtype == torch.float32


def test_what_is_saved_opens_on_both_sides_with_equal_weights(opened, decoder, family, tmp_path):
    opened(family).save_pretrained(tmp_path)
    reopened = dict(load_decoder(tmp_path, prepare=False).named_parameters())
    again = dict(AutoModelForCausalLM.from_pretrained(tmp_path).named_parameters())
    for name, weight in decoder(family).named_parameters():
        assert torch.equal(weight, reopened[name])
        assert torch.equal(weight, again[name])
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(reopened), "tied weights are saved once"


def test_every_published_key_survives_the_round_trip(opened, folder, family, tmp_path):
    raw = json.loads((folder(family) / "config.json").read_text())
    opened(family).config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {"torch_dtype", *saved} >= set(raw)
    kept = raw.keys() - {"torch_dtype"}
    assert {key: saved[key] for key in kept} == {key: raw[key] for key in kept}
    assert saved["dtype"] == raw["torch_dtype"]
    assert read_shape(AutoConfig.from_pretrained(tmp_path)) == registry.parse(raw)


def test_a_missing_tie_word_embeddings_means_what_it_means_to_the_family(fresh, folder, tmp_path):
    raw = json.loads((folder("minicpm-2b") / "config.json").read_text())
    assert "tie_word_embeddings" not in raw
    model = fresh("minicpm-2b")
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_new_model_is_initialised_as_the_config_says():
    config = AutoConfig.for_model(**{**tiny_config("minicpm4-8b"), "initializer_range": 0.25})
    model = AutoModelForCausalLM.from_config(config)
    assert model.model.layers[0].mlp.up_proj.weight.std().item() == pytest.approx(0.25, rel=0.1)
    assert torch.equal(model.model.norm.weight, torch.ones(64))


def test_the_base_model_opens_and_reopens_as_itself(opened, folder, ids, tmp_path, assert_near):
    base = AutoModel.from_pretrained(folder("minicpm4-8b"))
    base.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    tokens = ids(1, 9)
    with torch.no_grad():
        whole = opened("minicpm4-8b")(tokens, output_hidden_states=True)
        assert torch.equal(again(tokens).last_hidden_state, whole.hidden_states[-1])


def test_rotary_tables_of_old_checkpoints_are_no_news(folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(folder("minicpm-1b"))
    table = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    model.save_pretrained(tmp_path, state_dict=model.state_dict() | table)
    _, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["unexpected_keys"]
    assert not report["missing_keys"]


@pytest.mark.parametrize("trust", [None, False, True])
def test_code_beside_a_checkpoint_is_never_run(tmp_path, trust):
    """Also where a script asks for it, as scripts for the published classes do."""
    homes = {
        "AutoConfig": "configuration_minicpm.MiniCPMConfig",
        "AutoModel": "modeling_minicpm.MiniCPMModel",
        "AutoModelForCausalLM": "modeling_minicpm.MiniCPMForCausalLM",
    }
    path = tiny_checkpoint("minicpm4-8b", tmp_path, auto_map=homes)
    for name in ("configuration_minicpm.py", "modeling_minicpm.py"):
        (path / name).write_text("raise AssertionError('code of a checkpoint was run')")
    model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=trust)
    assert type(model) is minicpm.hf.MiniCPMForCausalLM
    assert AutoTokenizer.from_pretrained(path, trust_remote_code=trust)("hello")["input_ids"]


@pytest.mark.parametrize("name", ["minicpm-2b", "minicpm4-8b"])
def test_a_wider_vocabulary_is_saved_and_reopened(fresh, ids, tmp_path, name, assert_near):
    model, tokens = fresh(name), ids(1, 9)
    with torch.no_grad():
        before = model(tokens).logits
        model.resize_token_embeddings(before.shape[-1] + 7, mean_resizing=False)
        assert_near(model(tokens).logits[..., :-7], before)
        model.save_pretrained(tmp_path)
        assert_near(load_decoder(tmp_path, prepare=False).logits_for(tokens[0])[:, :-7], before[0])


def test_a_copy_is_a_model_of_its_own(fresh, ids):
    model, tokens = fresh("minicpm4-8b"), ids(1, 9)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        before = model(tokens).logits
        model.model.norm.weight.zero_()
        assert torch.equal(copied(tokens).logits, before)
        assert not model(tokens).logits.any()


def test_a_key_that_nobody_reads_is_refused(folder):
    config = AutoConfig.from_pretrained(folder("minicpm-2b"))
    config.sliding_attention_of_the_future = 3
    with pytest.raises(UnreadConfig, match="sliding_attention_of_the_future"):
        AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("architecture", ["MiniCPMModel", "MiniCPMForSequenceClassification"])
def test_models_that_see_whole_texts_are_not_opened_as_decoders(folder, architecture):
    config = AutoConfig.from_pretrained(folder("minicpm-2b"))
    config.architectures = [architecture]
    for auto in (AutoModel, AutoModelForCausalLM):
        with pytest.raises(UnknownModel):
            auto.from_config(config)


@pytest.mark.parametrize("name", ["minicpm-2b", "minicpm4-8b", "nano"])
def test_the_tokenizer_is_the_one_of_tokenizer_json(folder, name):
    path = minicpm.checkpoint.resolve("nano") if name == "nano" else folder(name)
    theirs, raw = AutoTokenizer.from_pretrained(path), RawTokenizer.from_file(str(path / "tokenizer.json"))
    for text in ("hello the 你好 123", " a  b\n\nc", "<|im_start|>user\nhi<|im_end|>", "x<s>y</s>", ""):
        expected = raw.encode(text).ids
        assert theirs(text)["input_ids"] == expected
        assert theirs.decode(expected) == raw.decode(expected, skip_special_tokens=False)


def test_the_tokenizer_survives_being_saved(folder, tmp_path):
    path = folder("minicpm4-8b")
    AutoTokenizer.from_pretrained(path).save_pretrained(tmp_path)
    AutoConfig.from_pretrained(path).save_pretrained(tmp_path)
    expected = RawTokenizer.from_file(str(path / "tokenizer.json")).encode("hello 你").ids
    assert AutoTokenizer.from_pretrained(tmp_path)("hello 你")["input_ids"] == expected


def test_families_of_transformers_stay_its_own(folder):
    assert type(AutoModelForCausalLM.from_pretrained(folder("minicpm5-1b"))) is transformers.LlamaForCausalLM
    assert type(AutoConfig.for_model("minicpm3")).__module__.startswith("transformers.")
