"""A GGUF file opens as any checkpoint: same logits, same config, and errors that name the key."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from minicpm.checkpoint import load, open_checkpoint, resolve
from minicpm.checkpoint.folder import open_checkpoint as open_any
from minicpm.checkpoint.gguf.config_in import raw_config
from minicpm.checkpoint.gguf.config_out import architecture_for, config_metadata
from minicpm.checkpoint.gguf.decoding import read_rows
from minicpm.checkpoint.gguf.metadata import neat
from minicpm.checkpoint.gguf.reading import read_gguf
from minicpm.checkpoint.gguf.sampling import generation_config, sampling_metadata
from minicpm.checkpoint.gguf.types import by_name
from minicpm.checkpoint.gguf.values import boolean, f32, f32s, i32s, string, strings, u32
from minicpm.checkpoint.gguf.writing import TensorPlan, write_gguf
from minicpm.convert.gguf_export import to_gguf
from minicpm.convert.safetensors_export import to_safetensors
from minicpm.errors import (
    BadConfig,
    BadInput,
    CacheNotWritable,
    MalformedFile,
    MiniCPMError,
    NotACheckpoint,
    TokenizerMismatch,
    UnknownModel,
    UnreadConfig,
    WeightMismatch,
)
from minicpm.models.registry import parse
from minicpm.testing import tiny_checkpoint

SRC = Path(__file__).parents[3] / "src"
IDS = torch.tensor([1, 250, 5, 60, 9, 260, 20])
MODELS = {
    "minicpm-2b": {},
    "minicpm-1b": {},
    "minicpm-moe-8x2b": {},
    "minicpm3-4b": {"dim_model_base": 256},
    "minicpm4.1-8b": {},
    "bitcpm4-0.5b": {},
    "minicpm5-1b": {},
    "minicpm-2b-llama-format": {},
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@torch.no_grad()
def logits(path, dtype="float32", **options):
    return load(open_any(path), dtype=dtype, backend="torch", **options).logits_for(IDS)


def file_in(folder):
    (found,) = folder.glob("*.gguf")
    return found


def exported(tmp_path, name="minicpm4-0.5b", kind="F32", **changes):
    folder = tiny_checkpoint(name, tmp_path / "toy", **changes)
    return folder, file_in(to_gguf(open_any(folder), tmp_path / "made", type=kind).path)


KINDS = {bool: boolean, int: u32, float: f32, str: string}
LISTS = {str: strings, int: i32s, float: f32s}


def typed(value):
    return LISTS[type(value[0])](value) if isinstance(value, list) else KINDS[type(value)](value)


def rewritten(path, changes=(), without=(), tensors=None):
    """The same file with other metadata, or with other tensors: (name, shape, type, rows)."""
    old = read_gguf(path)
    metadata = {key: typed(value) for key, value in (dict(old.metadata) | dict(changes)).items()}
    kept = {key: value for key, value in metadata.items() if key not in without}
    if tensors is None:
        tensors = [(t.name, t.shape, t.type, read_rows(t)) for t in old.tensors.values()]
    new = path.with_name("changed.gguf")
    plans = [TensorPlan(name, shape, type) for name, shape, type, _ in tensors]
    with new.open("wb") as file:
        write_gguf(file, kept, plans, [rows for *_, rows in tensors])
    path.unlink()
    return new


@pytest.mark.parametrize("name", MODELS)
def test_float32_weights_give_the_same_bits(name, tmp_path):
    folder, path = exported(tmp_path, name, **MODELS[name])
    assert torch.equal(logits(path), logits(folder))


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K"])
def test_weights_in_blocks_give_the_logits_of_the_decoded_ones(kind, tmp_path):
    _, path = exported(tmp_path, "minicpm-1b", kind, hidden_size=256, intermediate_size=512)
    plain = to_safetensors(open_any(path), tmp_path / "plain").path
    dtype = open_any(plain).raw_config["torch_dtype"]
    assert torch.equal(logits(path, dtype), logits(plain, dtype))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M", "Q6_K"])
def test_the_memory_of_a_matrix_is_known_before_it_is_read(kind, tmp_path):
    _, path = exported(tmp_path, "minicpm-1b", kind, hidden_size=256, intermediate_size=512)
    for source in open_any(path).packed.values():
        assert source.held_bytes(2) == source.read(torch.bfloat16).nbytes


def test_ternary_blocks_give_the_logits_of_the_decoded_ones(tmp_path):
    wide = {"hidden_size": 256, "intermediate_size": 512, "group": "row", "rope_scaling": None}
    _, path = exported(tmp_path, "bitcpm4-1b", "TQ2_0", **wide)
    plain = to_safetensors(open_any(path), tmp_path / "plain").path
    assert torch.equal(logits(path, "bfloat16"), logits(plain, "bfloat16"))


@pytest.mark.parametrize("name", MODELS)
def test_a_config_comes_back_as_it_was(name, tmp_path):
    folder, path = exported(tmp_path, name, **MODELS[name])
    before, after = parse(open_any(folder).raw_config), parse(open_any(path).raw_config)
    skipped = ("rope", "eos", "raw")
    for field in before.__dataclass_fields__:
        if field not in skipped:
            assert getattr(after, field) == getattr(before, field), field
    assert sorted(after.eos) == sorted(before.eos)
    assert type(after.rope) is type(before.rope)
    # Factors are float32 in the file.
    factors = getattr(before.rope, "long", ())
    assert getattr(after.rope, "long", ()) == pytest.approx(factors, rel=1e-7)
    assert after.rope.theta == pytest.approx(before.rope.theta, rel=1e-7)


def test_a_longer_longrope_keeps_its_scale_of_attention(tmp_path):
    folder = tiny_checkpoint("minicpm4-0.5b", tmp_path / "toy", max_position_embeddings=131072)
    config = parse(open_any(folder).raw_config)
    assert config.rope.attention_scale > 1
    path = file_in(to_gguf(open_any(folder), tmp_path / "made", type="F32").path)
    assert parse(open_any(path).raw_config).rope.attention_scale == pytest.approx(config.rope.attention_scale)


@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_linear_rope_keeps_its_factor(tmp_path, factor):
    scaling = {"rope_type": "linear", "factor": factor}
    folder, path = exported(tmp_path, "minicpm5-1b", rope_scaling=scaling)
    assert torch.equal(logits(path), logits(folder))


def test_files_without_scales_have_those_of_the_first_models(tmp_path):
    folder, path = exported(tmp_path, "minicpm-2b", dim_model_base=256)
    keys = [f"minicpm.{name}_scale" for name in ("embedding", "residual", "logit")]
    changed = rewritten(path, without=keys)
    raw = open_any(changed).raw_config
    assert (raw["scale_emb"], raw["scale_depth"], raw["dim_model_base"]) == (12, 1.4, 256)
    assert torch.equal(logits(changed), logits(folder))


def test_experts_that_are_not_stacked_are_found_one_by_one(tmp_path):
    folder, path = exported(tmp_path, "minicpm-moe-8x2b")
    apart = []
    for tensor in read_gguf(path).tensors.values():
        rows = read_rows(tensor)
        if len(tensor.shape) < 3:
            apart.append((tensor.name, tensor.shape, tensor.type, rows))
            continue
        stem = tensor.name.removesuffix("_exps.weight")
        for place, part in enumerate(rows.chunk(tensor.shape[0])):
            apart.append((f"{stem}.{place}.weight", tensor.shape[1:], tensor.type, part))
    assert torch.equal(logits(rewritten(path, tensors=apart)), logits(folder))


def test_a_stack_in_blocks_is_read_expert_by_expert(tmp_path):
    _, path = exported(tmp_path, "minicpm-moe-8x2b", "Q8_0")
    checkpoint = open_any(path)
    name = "model.layers.1.mlp.experts.3.w2.weight"
    assert checkpoint.packed[name].shape == (64, 96)
    plain = to_safetensors(checkpoint, tmp_path / "plain").path
    assert torch.equal(logits(path, "bfloat16"), logits(plain, "bfloat16"))


def test_rounding_while_loading_takes_a_plain_file_too(tmp_path):
    folder, path = exported(tmp_path, "minicpm-1b", "BF16", dtype="bfloat16")
    assert torch.equal(logits(path, "auto", weights="int8"), logits(folder, "auto", weights="int8"))


def test_packing_takes_a_plain_ternary_file_too(tmp_path):
    folder, path = exported(tmp_path, "bitcpm4-1b", "BF16", dtype="bfloat16")
    packed = load(open_any(path), backend="torch", weights="packed")
    assert torch.equal(packed.logits_for(IDS), logits(folder, "auto"))


def test_the_small_files_lie_in_the_cache_and_are_made_once(tmp_path):
    _, path = exported(tmp_path)
    first = open_any(path).path
    assert first.is_relative_to(tmp_path / "cache")
    stamp = (first / "tokenizer.json").stat().st_mtime_ns
    assert open_any(path).path == first
    assert (first / "tokenizer.json").stat().st_mtime_ns == stamp
    (first / "tokenizer.json").unlink()
    assert open_any(path).path == first
    assert (first / "tokenizer.json").is_file()
    assert json.loads((first / "config.json").read_text()) == open_any(path).raw_config


def test_two_processes_may_make_the_small_files_at_once(tmp_path):
    _, path = exported(tmp_path)
    script = "import sys; from minicpm.checkpoint import open_checkpoint; open_checkpoint(sys.argv[1])"
    home = str(tmp_path / "both")
    env = os.environ | {"PYTHONPATH": str(SRC), "MINICPM_HOME": home, "OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen([sys.executable, "-c", script, str(path)], env=env) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    (made,) = (Path(home) / "gguf").iterdir()
    assert (made / "tokenizer.json").is_file()


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    _, path = exported(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINICPM_HOME", str(tmp_path / "file"))
    with pytest.raises(CacheNotWritable, match="MINICPM_HOME"):
        open_any(path)


def test_a_path_or_the_folder_around_it_names_the_model(tmp_path):
    _, path = exported(tmp_path)
    assert resolve(str(path)) == path
    assert open_checkpoint(path.parent).tensors.keys() == open_checkpoint(path).tensors.keys()
    (path.parent / "other.gguf").write_bytes(path.read_bytes())
    with pytest.raises(NotACheckpoint, match=r"2 GGUF files: .*other\.gguf"):
        open_checkpoint(path.parent)


def test_a_folder_of_safetensors_stays_one(tmp_path):
    folder, path = exported(tmp_path)
    (folder / "beside.gguf").write_bytes(path.read_bytes())
    assert open_checkpoint(folder).path == folder


def test_sampling_goes_both_ways():
    generation = {
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "repetition_penalty": 1.02,
    }
    metadata = {key: value.value for key, value in sampling_metadata(generation).items()}
    assert generation_config(metadata) == generation
    greedy = {key: value.value for key, value in sampling_metadata({"do_sample": False}).items()}
    assert generation_config(greedy) == {"do_sample": False}
    assert sampling_metadata({"temperature": "hot", "top_k": True, "top_p": None}) == {}


def test_a_number_is_the_shortest_that_rounds_to_the_one_in_the_file():
    assert neat(float(torch.tensor(1e-5))) == 1e-5
    assert neat(float(torch.tensor(1.4 / 40**0.5))) == pytest.approx(1.4 / 40**0.5, rel=1e-7)
    assert neat(0.1) == 0.1  # no float32 at all
    assert neat(1e300) == 1e300


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"minicpm.block_count": 2**31}, BadConfig, "minicpm.block_count"),
        ({"minicpm.block_count": 0}, BadConfig, "minicpm.block_count"),
        ({"minicpm.embedding_length": 2**32 - 1}, BadConfig, "minicpm.embedding_length"),
        ({"minicpm.embedding_length": "64"}, BadConfig, "minicpm.embedding_length"),
        ({"minicpm.attention.head_count": [4, 4, 4]}, BadConfig, "minicpm.attention.head_count"),
        ({"minicpm.attention.key_length": 15}, BadConfig, "rope.dimension_count|value_length"),
        ({"minicpm.rope.dimension_count": 8}, BadConfig, "minicpm.rope.dimension_count"),
        ({"minicpm.rope.freq_base": float("nan")}, BadConfig, "minicpm.rope.freq_base"),
        ({"minicpm.rope.freq_base": float("inf")}, BadConfig, "minicpm.rope.freq_base"),
        ({"minicpm.attention.layer_norm_rms_epsilon": -1.0}, BadConfig, "layer_norm_rms_epsilon"),
        ({"minicpm.residual_scale": 0.0}, BadConfig, "minicpm.residual_scale"),
        ({"minicpm.logit_scale": 1e-30}, MiniCPMError, "dim_model_base|logit_scale"),
        ({"minicpm.context_length": True}, BadConfig, "minicpm.context_length"),
        ({"minicpm.rope.scaling.attn_factor": "much"}, BadConfig, "minicpm.rope.scaling.attn_factor"),
        ({"minicpm.attention.sliding_window": 64}, UnreadConfig, "minicpm.attention.sliding_window"),
        ({"general.architecture": "llama4"}, UnknownModel, "llama4"),
        ({"general.architecture": 7}, UnknownModel, "general.architecture"),
        ({"general.type": "adapter"}, BadInput, "adapter"),
        ({"split.count": 3}, BadInput, "llama-gguf-split --merge"),
        ({"tokenizer.ggml.eos_token_id": 1.5}, BadConfig, "tokenizer.ggml.eos_token_id"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, TokenizerMismatch, "tokenizer.ggml.tokens"),
    ],
)
def test_absurd_metadata_is_refused_by_key(tmp_path, changes, error, said):
    _, path = exported(tmp_path)
    with pytest.raises(error, match=said):
        open_any(rewritten(path, changes))


@pytest.mark.parametrize(
    "key",
    [
        "general.architecture",
        "minicpm.block_count",
        "minicpm.embedding_length",
        "minicpm.feed_forward_length",
        "minicpm.context_length",
        "minicpm.attention.head_count",
        "minicpm.attention.layer_norm_rms_epsilon",
    ],
)
def test_a_key_that_is_missing_is_named(tmp_path, key):
    _, path = exported(tmp_path)
    with pytest.raises(MiniCPMError, match=key):
        open_any(rewritten(path, without=[key]))


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    _, path = exported(tmp_path)
    changed = rewritten(path, {"minicpm.rope.freq_base": -1.0}, without=["minicpm.block_count"])
    with pytest.raises(BadConfig, match=r"minicpm\.block_count is missing.*minicpm\.rope\.freq_base"):
        open_any(changed)


def edited(path, edit):
    tensors = [(t.name, t.shape, t.type, read_rows(t)) for t in read_gguf(path).tensors.values()]
    return rewritten(path, tensors=edit(tensors))


def test_tensors_that_nobody_needs_are_refused(tmp_path):
    _, path = exported(tmp_path)
    extra = ("rope_freqs.weight", (8,), by_name("F32"), torch.ones(8))
    with pytest.raises(WeightMismatch, match=r"rope_freqs\.weight"):
        open_any(edited(path, lambda tensors: [*tensors, extra]))


def test_a_tensor_that_is_missing_or_of_another_shape_is_named_when_loaded(tmp_path):
    _, path = exported(tmp_path, "minicpm-1b")

    def edit(tensors):
        kept = [t for t in tensors if t[0] not in ("blk.1.attn_q.weight", "blk.0.attn_k.weight")]
        return [*kept, ("blk.0.attn_k.weight", (31, 64), by_name("F32"), torch.ones(31, 64))]

    with pytest.raises(WeightMismatch, match=r"layers\.1\.self_attn\.q_proj.*layers\.0\.self_attn\.k_proj"):
        logits(edited(path, edit))


def test_half_a_table_of_longrope_is_refused(tmp_path):
    _, path = exported(tmp_path)
    with pytest.raises(BadConfig, match="rope_factors_short"):
        open_any(edited(path, lambda tensors: [t for t in tensors if t[0] != "rope_factors_short.weight"]))


def test_a_table_of_another_type_is_refused(tmp_path):
    _, path = exported(tmp_path)
    odd = ("rope_factors_long.weight", (8,), by_name("F16"), torch.ones(8, dtype=torch.float16))

    def edit(tensors):
        return [odd if t[0] == odd[0] else t for t in tensors]

    with pytest.raises(MalformedFile, match=r"rope_factors_long\.weight as F16"):
        open_any(edited(path, edit))


def test_infinite_factors_are_refused(tmp_path):
    _, path = exported(tmp_path)
    bad = ("rope_factors_long.weight", (8,), by_name("F32"), torch.full((8,), torch.inf))

    def edit(tensors):
        return [bad if t[0] == bad[0] else t for t in tensors]

    with pytest.raises(BadConfig, match="long_factor"):
        open_any(edited(path, edit))


@pytest.mark.parametrize("name", ["minicpm-2b-128k", "minicpm-s-1b", "minicpm-sala"])
def test_metadata_of_what_llama_cpp_cannot_compute_is_refused_or_noted(name, tmp_path):
    folder = tiny_checkpoint(name, tmp_path / "toy")
    config = parse(open_any(folder).raw_config)
    if name == "minicpm-2b-128k":
        assert architecture_for(config) == "minicpm"
        assert config_metadata(config)["minicpm.rope.freq_base"].value == config.rope.base
    else:
        with pytest.raises(BadInput, match="cannot become a GGUF file"):
            architecture_for(config)


def test_raw_config_reads_no_tensor_but_the_tables(tmp_path):
    _, path = exported(tmp_path)
    file = read_gguf(path)
    start = min(t.offset for t in file.tensors.values() if not t.name.startswith("rope_"))
    whole = path.read_bytes()
    path.write_bytes(whole[:start] + bytes(len(whole) - start))
    assert raw_config(read_gguf(path)) == raw_config(file)
