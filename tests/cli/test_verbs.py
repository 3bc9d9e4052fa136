"""The verbs that describe, fetch, list, remove, convert and check."""

import json
import shutil

import pytest

from minicpm.cli import description
from minicpm.config import parameter_count
from minicpm.models.companions import companions
from minicpm.models.published import by_name, published
from minicpm.models.registry import parse


def test_models_lists_every_published_model(program):
    table = program("models").out
    documents = json.loads(program("models", "--json").out)
    beside = [d for d in documents if "of" in d]
    documents = [d for d in documents if "of" not in d]
    assert [d["model"] for d in documents if d["model"] != "nano"] == [row.name for row in published()]
    assert [d["model"] for d in beside] == [row.name for row in companions()]
    assert all(row.repository in table for row in companions())
    assert all(row.repositories[0] in table for row in published())
    assert all(document["reach"] >= document["context"] for document in documents)


def test_models_begins_with_the_packaged_model(program, tiny, monkeypatch):
    expected = json.loads(program("show", str(tiny), "--json").out)["parameters"]
    monkeypatch.setattr("minicpm.checkpoint.resolving.resolve", lambda name: tiny)
    first = json.loads(program("models", "--json").out)[0]
    assert (first["model"], first["repositories"], first["parameters"]) == ("nano", ["nano"], expected)


def test_show_describes_a_folder(program, tiny):
    shown = program("show", str(tiny)).out
    document = json.loads(program("show", str(tiny), "--json", "--context", "640").out)
    raw = json.loads((tiny / "config.json").read_text())
    assert document["parameters"] == parameter_count(parse(raw))
    assert f"{document['parameters']:,}" in shown
    assert document["bytes"] == 4 * document["parameters"]
    assert document["eos_ids"] == sorted(raw["eos_token_id"])
    assert document["tokenizer_size"] == raw["vocab_size"]
    assert document["template_origin"] == "built-in"
    assert document["template_hash"][:16] in shown
    (memory,) = document["memory"]
    assert memory["context"] == 640
    assert memory["weight_bytes"] == document["bytes"]


def test_show_tells_where_attention_is_sparse(program, tmp_path):
    from minicpm.testing import tiny_checkpoint

    sparse = {"kernel_size": 32, "kernel_stride": 16, "init_blocks": 1, "block_size": 64, "window_size": 2048}
    sparse |= {"topk": 64, "use_nope": False, "dense_len": 8192}
    folder = tiny_checkpoint("minicpm4.1-8b", tmp_path / "sparse", sparse_config=sparse)
    shown = json.loads(program("show", str(folder), "--json").out)["attention"]
    assert shown == "sparse in 3 of 3 layers, 96 blocks of 64 tokens from token 8,192 on"
    assert "sparse in 3 of 3 layers" in program("show", str(folder)).out


def test_show_tells_what_latent_attention_remembers(program):
    shown = program("show", "openbmb/MiniCPM3-4B").out
    assert "latent, 256 + 32 numbers remembered per token and layer" in shown
    assert "4,073,875,968" in shown


def test_show_prints_the_template_and_a_conversation(program, tiny, tmp_path):
    assert "<|im_start|>user\nHello!<|im_end|>" in program("show", str(tiny), "--template").out
    own = tmp_path / "own"
    shutil.copytree(tiny, own)
    (own / "chat_template.jinja").write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}\x1b[2J")
    shown = program("show", str(own), "--template").out
    assert "{% for m in messages %}" in shown
    assert "[Hello!]" in shown
    assert "\x1b" not in shown


def test_show_describes_published_models_that_were_not_pulled(program):
    shown = program("show", "openbmb/MiniCPM4-8B", "--context", "131072").out
    assert f"{by_name('MiniCPM4-8B').parameters:,}" in shown
    assert "131,072 tokens" in shown
    assert "4.00 GiB of cache" in shown
    assert "Not pulled" in shown
    program("show", "openbmb/MiniCPM4-8b").refused("'openbmb/MiniCPM4-8B'")
    program("show", "openbmb/MiniCPM4-8B", "--template").refused("minicpm pull openbmb/MiniCPM4-8B")
    program("show", "openbmb/MiniCPM4-8B", "--context", "131073").refused("131073")


@pytest.mark.parametrize("row", published(), ids=lambda row: row.name)
def test_every_published_config_can_be_described(row):
    document = description.describe_config(row.raw)
    assert document["rope"].startswith("theta")
    assert [memory["context"] for memory in document["memory"]][-1] == document["reach"]


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({}, None),
        ({"LICENSE": "\n  Apache License\nVersion 2.0"}, "Apache License"),
        ({"README.md": "---\nlicense: apache-2.0\n---\n", "LICENSE": "other"}, "apache-2.0"),
        ({"README.md": "---\ntags: [x]\n---\nlicense: mit\n"}, None),
        ({"README.md": "license: mit\n"}, None),
    ],
)
def test_the_licence_comes_from_the_card_or_the_file(files, licence, tmp_path):
    from minicpm.cli.licence import licence_of

    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert licence_of(tmp_path) == licence


def test_a_model_is_pulled_listed_shown_used_and_removed(program, hub, tmp_path):
    assert "No models were pulled" in program("list").out
    pulled = program("pull", hub.name)
    assert pulled.code == 0, pulled.err
    folder = pulled.out.strip()
    assert folder.startswith(str(tmp_path / "cache"))
    (row,) = json.loads(program("list", "--json").out)
    assert (row["name"], row["path"], row["complete"]) == (hub.name, folder, True)
    assert hub.name in program("list").out
    assert json.loads(program("show", hub.name, "--json").out)["path"] == folder
    assert program("run", hub.name, "--offline", "-p", "hello", "--max-tokens", "1").code == 0
    assert "freed" in program("rm", hub.name).out
    assert json.loads(program("list", "--json").out) == []


def test_a_model_named_to_chat_is_pulled_first(program, hub):
    done = program("chat", hub.name, "--max-tokens", "1", stdin=b"hello")
    assert done.code == 0, done.err
    assert done.err == ""


def test_a_repository_that_does_not_exist(program, hub):
    program("pull", "toys/Tin").refused("toys/Tin")


def test_an_offline_use_of_a_model_that_is_not_here(program, hub):
    program("chat", hub.name, "--offline", stdin=b"hello").refused("minicpm pull")


def test_legacy_weights_are_converted(program, tiny, tmp_path):
    import torch

    from minicpm.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(tiny)
    old = tmp_path / "old"
    shutil.copytree(tiny, old, ignore=shutil.ignore_patterns("*.safetensors*"))
    torch.save({name: checkpoint.read(name) for name in checkpoint.tensors}, old / "pytorch_model.bin")
    done = program("convert", str(old), str(tmp_path / "new"))
    assert done.code == 0, done.err
    assert done.out == f"{tmp_path / 'new'}\n"
    new = open_checkpoint(tmp_path / "new")
    assert all(torch.equal(new.read(name), checkpoint.read(name)) for name in checkpoint.tensors)
    program("convert", str(old), str(tmp_path / "new")).refused("not empty")
    assert program("convert", str(old), str(tmp_path / "new"), "--overwrite").code == 0


def findings(program):
    return {finding["subject"]: finding for finding in json.loads(program("doctor", "--json").out)}


def test_doctor_looks_at_everything(program):
    found = findings(program)
    for subject in (
        "minicpm",
        "python",
        "terminal",
        "memory",
        "cache",
        "hub",
        "torch",
        "threads",
        "gpu",
        "native",
    ):
        assert subject in found
    assert all(finding["ok"] == (finding["advice"] is None) for finding in found.values())
    lines = program("doctor").out.splitlines()
    assert all(line.startswith(("ok  ", "warn", " ")) for line in lines)


def test_doctor_says_what_is_wrong_and_what_to_do(program, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINICPM_HOME", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", "nonsense")
    monkeypatch.setattr("minicpm.checkpoint.available.memory_limits", list)
    found = findings(program)
    assert "MINICPM_HOME" in found["cache"]["advice"]
    assert "HF_ENDPOINT" in found["hub"]["advice"]
    assert found["memory"]["ok"]


def test_doctor_finds_pointers_and_unfinished_pulls(program, hub, tmp_path):
    folder = program("pull", hub.name).out.strip()
    assert findings(program)[hub.name]["ok"]
    name = next(name for name in hub.files if name.endswith(".safetensors"))
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\n"
    with open(f"{folder}/{name}", "r+b") as file:
        file.write(pointer)
        size = file.seek(0, 2)
        file.truncate(size)
    finding = findings(program)[hub.name]
    assert not finding["ok"]
    assert "minicpm rm" in finding["advice"]


def test_doctor_warns_of_a_terminal_without_chinese(start):
    import os

    done = start("doctor", env=os.environ | {"PYTHONIOENCODING": "ascii"}).finish()
    assert done.code == 0, done.err
    assert "PYTHONUTF8=1" in done.out


def test_names_of_models_are_offered_to_shells(hub, program):
    from minicpm.cli.complete import model_names

    program("pull", hub.name)
    assert model_names("na") == ["nano"]
    assert model_names("toys") == [hub.name]
    assert "openbmb/MiniCPM4-8B" in model_names("openbmb/")
