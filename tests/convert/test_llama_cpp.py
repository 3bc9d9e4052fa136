"""llama.cpp, which reads our files independently, computes from them what we compute."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from minicpm.checkpoint import load, open_checkpoint
from minicpm.checkpoint.adapters import merge, open_adapter
from minicpm.convert.gguf_export import to_gguf
from minicpm.convert.lora_export import lora_to_gguf
from minicpm.testing import tiny_checkpoint
from minicpm.testing.tiny_lora import tiny_adapter
from minicpm.text.tokenizer import Tokenizer

DATA = Path(os.environ.get("MINICPM_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
IDS = [1, 270, 5, 60, 9, 260, 20]
MODELS = {
    "minicpm-2b": {},
    "minicpm-1b": {},
    "minicpm-2b-128k": {},
    "minicpm-moe-8x2b": {},
    "minicpm3-4b": {"dim_model_base": 256},
    "minicpm4-0.5b": {},
    "minicpm4-8b": {},
    "minicpm4.1-8b": {},
    "minicpm5-1b": {},
    "minicpm-2b-llama-format": {},
}
# Wide enough for blocks of 256; llama.cpp's inner norms have the outer ones' eps.
WIDE = {"hidden_size": 256, "intermediate_size": 512, "rope_scaling": None}
LATENT = {
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "q_lora_rank": 256,
    "kv_lora_rank": 256,
    "dim_model_base": 256,
}
# As a share of the largest logit. Plain: float32 sums in another order, and in MiniCPM3 another eps of two
# norms. Otherwise llama.cpp rounds the rows it multiplies: to 16 bits, or to 8 in groups of 32 or 256.
TOLERANCE = {"F32": 1e-5, "F16": 2e-3, "BF16": 1.5e-2}
ROUNDED = 5e-2


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ours(path):
    return load(open_checkpoint(path), dtype="float32", backend="torch").logits_for(IDS).detach()


def file_in(folder):
    (found,) = folder.glob("*.gguf")
    return found


def assert_close(theirs, mine, share):
    difference, largest = (theirs - mine).abs().max(), mine.abs().max()
    assert difference <= share * largest, f"{difference:.3g} of {largest:.3g}"


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "F32") for name in MODELS), *(("minicpm5-1b", kind) for kind in ("F16", "BF16"))],
)
def test_plain_weights_give_our_logits(llama, tmp_path, name, kind):
    folder = tiny_checkpoint(name, tmp_path / "toy", **MODELS[name])
    made = to_gguf(open_checkpoint(folder), tmp_path / "made", type=kind).path
    assert_close(llama.logits(file_in(made), IDS), ours(made), TOLERANCE[kind])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("minicpm-1b", kind) for kind in ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0")),
        *((name, "Q4_K_M") for name in ("minicpm3-4b", "minicpm5-1b")),
    ],
)
def test_blocks_give_our_logits(llama, tmp_path, name, kind):
    more = LATENT if name == "minicpm3-4b" else {}
    folder = tiny_checkpoint(name, tmp_path / "toy", **WIDE, **more)
    made = to_gguf(open_checkpoint(folder), tmp_path / "made", type=kind).path
    assert_close(llama.logits(file_in(made), IDS), ours(made), ROUNDED)


@pytest.mark.parametrize("kind", ["TQ1_0", "TQ2_0"])
def test_ternary_blocks_give_our_logits(llama, tmp_path, kind):
    folder = tiny_checkpoint("bitcpm4-1b", tmp_path / "toy", group="row", **WIDE)
    made = to_gguf(open_checkpoint(folder), tmp_path / "made", type=kind).path
    assert_close(llama.logits(file_in(made), IDS), ours(made), ROUNDED)


@pytest.mark.parametrize(
    ("name", "targets", "settings"),
    [
        ("minicpm-1b", ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), {}),
        ("minicpm-1b", ("q_proj", "o_proj"), {"use_rslora": True}),
        ("minicpm5-1b", ("q_proj", "k_proj", "down_proj"), {"alpha_pattern": {"k_proj": 3}}),
        ("minicpm3-4b", ("o_proj", "up_proj"), {}),
    ],
)
def test_an_adapter_gives_the_logits_of_the_merged_model(llama, tmp_path, name, targets, settings):
    folder = tiny_checkpoint(name, tmp_path / "toy", **MODELS[name])
    adapter = open_adapter(tiny_adapter(tmp_path / "adapter", folder, targets, **settings))
    model = file_in(to_gguf(open_checkpoint(folder), tmp_path / "made", type="F32").path)
    lora = file_in(lora_to_gguf(adapter, open_checkpoint(folder), tmp_path / "lora").path)
    decoder = load(open_checkpoint(folder), dtype="float32", backend="torch", prepare=False)
    merge(decoder, adapter)
    assert_close(llama.logits(model, IDS, lora), decoder.logits_for(IDS).detach(), TOLERANCE["F32"])


@pytest.mark.parametrize(
    ("name", "tokenizer", "vocab"),
    [("minicpm-1b", "minicpm-1b-73440", 73440), ("minicpm4-0.5b", "minicpm3-73448", 73448)],
)
def test_published_tokenizers_give_our_ids(llama, tmp_path, tricky_texts, name, tokenizer, vocab):
    source = DATA / "tokenizers" / tokenizer
    if not source.is_dir():
        pytest.skip("needs the published tokenizers; set MINICPM_TEST_DATA to the folder of tokenizers/")
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "rope_scaling": None}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    folder = tiny_checkpoint(name, tmp_path / "toy", vocab_size=vocab, **sizes, **heads)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
        if (source / file).exists():
            shutil.copyfile(source / file, folder / file)
    made = to_gguf(open_checkpoint(folder), tmp_path / "made", type="F16").path
    mine = Tokenizer.from_folder(folder)
    assert llama.tokens(file_in(made), tricky_texts) == [mine.encode(text) for text in tricky_texts]
