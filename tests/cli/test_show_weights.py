"""`minicpm show` says what sets weights and neurons of a model apart."""

import json

import pytest
import torch

from minicpm.checkpoint import open_checkpoint
from minicpm.checkpoint.probing import may_be_ternary
from minicpm.models.sparsity import activation_sparsity
from minicpm.testing import families, tiny_checkpoint
from minicpm.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    return tiny_checkpoint("minicpm-s-1b", tmp_path_factory.mktemp("models") / "s", hidden_act_param=0.4)


def shown(program, folder):
    return program("show", str(folder)).out, json.loads(program("show", str(folder), "--json").out)


def test_a_ternary_checkpoint_is_told_with_its_bits(program, tmp_path):
    folder = tiny_checkpoint("bitcpm4-1b", tmp_path / "bits", dtype="bfloat16")
    text, document = shown(program, folder)
    ternary = document["ternary"]
    assert (ternary["group"], ternary["bits_per_weight"]) == (32, 2.5)
    packed = 3 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)
    assert ternary["plain_bytes"] - ternary["packed_bytes"] == packed * (16 - 2.5) / 8
    assert "yes, in groups of 32: 2.50 bits per packed weight" in text


def test_a_checkpoint_that_is_not_ternary_is_not_called_so(program, tiny):
    text, document = shown(program, tiny)
    assert document["ternary"] is None
    assert "ternary" not in text


def test_one_other_weight_far_from_the_first_is_noticed(program, tmp_path):
    """The first bytes only tell where reading on is worth it."""
    from safetensors.torch import load_file, save_file

    folder = tiny_checkpoint("bitcpm4-0.5b", tmp_path / "bits")
    shard = max(folder.glob("*.safetensors"))
    tensors = load_file(shard)
    name = next(name for name in tensors if name.endswith("_proj.weight"))
    tensors[name][-1, -2:] = torch.tensor([0.5, 0.25])
    save_file(tensors, shard, metadata={"format": "pt"})
    assert may_be_ternary(open_checkpoint(folder))
    assert shown(program, folder)[1]["ternary"] is None


def test_what_rounded_weights_would_take_is_told(program, tiny):
    text, document = shown(program, tiny)
    plain = document["memory"][0]["weight_bytes"] / {"float32": 2, "bfloat16": 1}[document["dtype"]]
    assert document["rounded"]["int4"]["bytes"] < document["rounded"]["int8"]["bytes"] < plain
    bits = document["rounded"]["int4"]["bits_per_weight"]
    assert f"with `--weights int4`, {bits:.2f} bits each" in text


def test_a_published_model_is_told_rounded_before_it_is_pulled(program):
    assert (
        "4.60 GiB of weights with `--weights int4`, 4.82 bits each"
        in program("show", "openbmb/MiniCPM4-8B").out
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("family", ["minicpm-2b", "minicpm-moe-8x2b", "bitcpm4-0.5b"])
def test_a_few_bytes_tell_ternary_weights_from_others(family, dtype, tmp_path):
    folder = tiny_checkpoint(family, tmp_path, dtype=dtype)
    assert may_be_ternary(open_checkpoint(folder)) == family.startswith("bitcpm")


def test_tensors_of_another_model_are_described_and_not_called_ternary(program, tmp_path):
    folder = tiny_checkpoint("bitcpm4-1b", tmp_path / "bits")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    assert shown(program, folder)[1]["ternary"] is None


def test_experts_and_thresholds_are_told(program, sparse, tmp_path):
    experts = tiny_checkpoint("minicpm-moe-8x2b", tmp_path / "experts")
    assert "feed-forward 96, 8 experts, 2 per token" in shown(program, experts)[0]
    assert "feed-forward 96, FATReLU above 0.4" in shown(program, sparse)[0]
    assert "5,760, 8 experts, 2 per token" in program("show", "openbmb/MiniCPM-MoE-8x2B").out


def test_the_neurons_a_text_leaves_inactive_are_counted_by_layer(program, sparse):
    import minicpm

    found = json.loads(program("show", str(sparse), "--sparsity", "hello 你好", "--json").out)["sparsity"]
    ids = Tokenizer.from_folder(sparse).encode("hello 你好")
    wanted = activation_sparsity(minicpm.load_decoder(sparse), ids)
    assert found == {"layers": list(wanted.layers), "mean": wanted.mean, "tokens": len(ids)}
    assert 0.5 < found["mean"] < 0.9
    lines = program("show", str(sparse), "--sparsity", "hello 你好").out.splitlines()
    assert lines[1].split() == ["0", f"{wanted.layers[0]:.2%}"]
    assert lines[-1].split()[:2] == ["mean", f"{wanted.mean:.2%}"]


@pytest.mark.parametrize("family", [name for name in families() if name != "minicpm-s-1b"])
def test_every_other_model_has_no_inactive_neurons(program, family, tmp_path):
    folder = tiny_checkpoint(family, tmp_path / "model")
    found = json.loads(program("show", str(folder), "--sparsity", "hello", "--json").out)["sparsity"]
    assert found["mean"] == 0


def test_the_sparsity_of_a_model_that_is_not_here_cannot_be_measured(program):
    program("show", "openbmb/MiniCPM-S-1B-sft", "--sparsity", "hello").refused("not pulled", "weights")
