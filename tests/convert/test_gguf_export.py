"""What is written for llama.cpp and Ollama is the model, whole or not there, and says what it leaves out."""

import json
import os
import random
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from minicpm.checkpoint import open_checkpoint
from minicpm.checkpoint.gguf.decoding import read_rows
from minicpm.checkpoint.gguf.reading import read_gguf
from minicpm.convert.gguf_export import to_gguf
from minicpm.convert.gguf_types import FILE_TYPES, Mixture, file_type
from minicpm.convert.needed import Needed, needed_of
from minicpm.convert.ollama import modelfile
from minicpm.convert.safetensors_export import to_safetensors
from minicpm.errors import BadInput, NotFinite, NotTernary, TokenizerError, WeightMismatch
from minicpm.models.registry import parse
from minicpm.ops.quant_tensor import plain
from minicpm.testing import tiny_checkpoint

SRC = Path(__file__).parents[2] / "src"
WIDE = {"hidden_size": 256, "intermediate_size": 512, "rope_scaling": None}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny(tmp_path):
    return tiny_checkpoint("minicpm4-0.5b", tmp_path / "tiny")


def file_in(folder):
    (found,) = folder.glob("*.gguf")
    return found


@pytest.mark.parametrize("kind", ["F32", "BF16"])
@pytest.mark.parametrize("name", ["minicpm-1b", "minicpm-moe-8x2b", "minicpm3-4b", "minicpm5-1b"])
def test_there_and_back_gives_the_same_tensors(tmp_path, name, kind):
    dtype = "float32" if kind == "F32" else "bfloat16"
    scales = {"dim_model_base": 256} if name == "minicpm3-4b" else {}
    source = open_checkpoint(tiny_checkpoint(name, tmp_path / "toy", dtype=dtype, **scales))
    made = to_gguf(source, tmp_path / "made", type=kind).path
    back = open_checkpoint(to_safetensors(open_checkpoint(made), tmp_path / "back").path)
    assert back.tensors.keys() == source.tensors.keys()
    for weight in source.tensors:
        assert torch.equal(back.read(weight), source.read(weight)), weight
    assert back.generation["temperature"] == source.generation["temperature"]


def test_without_a_type_the_weights_stay_as_they_are(tmp_path, tiny):
    assert to_gguf(open_checkpoint(tiny), tmp_path / "made").path.glob("*-F32.gguf")
    half = tiny_checkpoint("minicpm-1b", tmp_path / "half", dtype="bfloat16")
    assert file_in(to_gguf(open_checkpoint(half), tmp_path / "too").path).name == "half-BF16.gguf"


def test_a_dry_run_tells_the_bytes_and_writes_nothing(tmp_path, tiny):
    told = to_gguf(open_checkpoint(tiny), tmp_path / "made", type="Q8_0", dry_run=True)
    assert not (tmp_path / "made").exists()
    made = to_gguf(open_checkpoint(tiny), tmp_path / "made", type="Q8_0")
    assert told.files == {"tiny-Q8_0.gguf": file_in(made.path).stat().st_size}
    assert made.nbytes == sum(path.stat().st_size for path in made.path.iterdir())


def test_sums_name_every_file(tmp_path, tiny):
    (tiny / "LICENSE").write_text("Apache")
    made = to_gguf(open_checkpoint(tiny), tmp_path / "made", type="F16").path
    listed = [line.split("  ")[1] for line in (made / "SHA256SUMS").read_text().splitlines()]
    assert sorted(listed) == ["LICENSE", "Modelfile", "tiny-F16.gguf"]
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=made, check=False, capture_output=True)
    assert done.returncode == 0


def test_progress_ends_at_the_whole(tmp_path, tiny):
    seen = []
    to_gguf(open_checkpoint(tiny), tmp_path / "made", progress=lambda *step: seen.append(step))
    assert seen[-1][0] == seen[-1][1] > 0
    assert [done for done, *_ in seen] == sorted(done for done, *_ in seen)


def test_blocks_that_a_file_holds_are_taken_over_as_they_are(tmp_path):
    folder = tiny_checkpoint("minicpm-1b", tmp_path / "toy", **WIDE)
    for kind in ("Q8_0", "Q4_0", "Q4_K_M", "Q6_K"):
        first = to_gguf(open_checkpoint(folder), tmp_path / f"{kind}-1", type=kind).path
        second = to_gguf(open_checkpoint(first), tmp_path / f"{kind}-2", type=kind).path
        one, other = read_gguf(file_in(first)), read_gguf(file_in(second))
        assert one.tensors.keys() == other.tensors.keys()
        for name, tensor in one.tensors.items():
            assert torch.equal(read_rows(tensor), read_rows(other.tensors[name])), (kind, name)
        # Scores count merges; those read back name every way to make a token.
        free = {"general.name", "tokenizer.ggml.scores"}
        assert one.metadata.keys() == other.metadata.keys()
        assert all(other.metadata[key] == one.metadata[key] for key in one.metadata.keys() - free), kind


def test_beside_the_file_one_weight_is_in_memory_at_a_time(tmp_path, tiny, monkeypatch):
    read, alive = Needed.read, []

    def watched(self, name):
        weight = read(self, name)
        alive[:] = [reference for reference in alive if reference() is not None]
        alive.append(weakref.ref(weight))
        most.append(len(alive))
        return weight

    most = []
    monkeypatch.setattr(Needed, "read", watched)
    to_gguf(open_checkpoint(tiny), tmp_path / "made", type="Q8_0")
    assert max(most) == 1


def mixture(kind, layers=16, experts=0, tied=False):
    return Mixture(FILE_TYPES[kind], layers, experts, tied)


# Read off llama_tensor_get_type_impl for 16 layers: the first and last two, and every third between.
WIDER = {0, 1, 4, 7, 10, 13, 14, 15}


@pytest.mark.parametrize(("kind", "most"), [("Q4_K_M", "Q4_K"), ("Q5_K_M", "Q5_K")])
def test_values_and_down_projections_of_some_layers_get_more_bits(kind, most):
    mix = mixture(kind)
    for part in ("attn_v", "ffn_down", "attn_kv_b"):
        wide = {i for i in range(16) if mix.type_of(f"blk.{i}.{part}.weight", 512).name == "Q6_K"}
        assert wide == WIDER, part
    assert mix.type_of("blk.0.attn_q.weight", 512).name == most
    assert mix.type_of("token_embd.weight", 512).name == most
    assert mix.type_of("output.weight", 512).name == "Q6_K"
    assert mixture(kind, tied=True).type_of("token_embd.weight", 512).name == "Q6_K"


def test_types_of_single_tensors_are_llama_cpps():
    assert mixture("Q8_0").type_of("output.weight", 512).name == "Q8_0"
    assert mixture("Q4_0").type_of("output.weight", 512).name == "Q6_K"
    assert mixture("Q4_0").type_of("output.weight", 48).name == "F16"
    assert mixture("TQ1_0").type_of("token_embd.weight", 512).name == "Q4_K"
    assert mixture("TQ1_0").type_of("blk.0.ffn_up.weight", 512).name == "TQ1_0"
    eight = mixture("Q4_K_M", experts=8)
    assert eight.type_of("blk.3.attn_k.weight", 512).name == "Q8_0"
    assert eight.type_of("blk.3.attn_output.weight", 512).name == "Q5_K"
    assert eight.type_of("blk.0.ffn_down_exps.weight", 512, 2).name == "Q6_K"
    assert eight.type_of("blk.3.ffn_gate_inp.weight", 512).name == "F32"
    assert eight.type_of("blk.3.attn_norm.weight", 512, 1).name == "F32"


@pytest.mark.parametrize(
    ("kind", "columns", "instead"),
    [
        ("Q4_K_M", 96, "Q5_0"),
        ("Q5_K_M", 96, "Q5_1"),
        ("Q6_K", 96, "Q8_0"),
        ("Q4_K_M", 100, "F16"),
        ("Q8_0", 8, "F16"),
    ],
)
def test_rows_that_blocks_do_not_divide_get_smaller_ones(kind, columns, instead):
    assert mixture(kind).type_of("blk.3.attn_q.weight", columns).name == instead


def test_ternary_blocks_have_no_smaller_ones():
    with pytest.raises(BadInput, match="rows of 96 weights"):
        mixture("TQ2_0").type_of("blk.3.attn_q.weight", 96)


def test_unknown_types_are_answered_with_the_known_ones():
    assert file_type("q4_k_m").name == "Q4_K_M"
    with pytest.raises(BadInput, match=r"'IQ2_XS'.*Q4_K_M"):
        file_type("IQ2_XS")


def test_ternary_types_are_for_ternary_models(tmp_path):
    folder = tiny_checkpoint("minicpm-1b", tmp_path / "toy", **WIDE)
    with pytest.raises(NotTernary, match=r"q_proj|down_proj|gate_proj|o_proj|up_proj|k_proj|v_proj"):
        to_gguf(open_checkpoint(folder), tmp_path / "made", type="TQ2_0")
    assert not (tmp_path / "made").exists()


def test_groups_that_ternary_blocks_do_not_hold_are_refused(tmp_path):
    folder = tiny_checkpoint("bitcpm4-1b", tmp_path / "toy", group=64, **WIDE)
    with pytest.raises(BadInput, match="groups of 64"):
        to_gguf(open_checkpoint(folder), tmp_path / "made", type="TQ1_0")


@pytest.mark.parametrize("kind", ["TQ1_0", "TQ2_0"])
def test_ternary_weights_come_back_exactly(tmp_path, kind):
    folder = tiny_checkpoint("bitcpm4-1b", tmp_path / "toy", dtype="bfloat16", group="row", **WIDE)
    source = open_checkpoint(folder)
    made = open_checkpoint(to_gguf(source, tmp_path / "made", type=kind).path)
    needed = needed_of(source)
    for name in needed.projections:
        found, wanted = plain(made.packed[name].read(torch.float32)), source.read(name).float()
        # bfloat16 scales of toys this small may lie below float16's normal numbers, by a share of 2^-11.
        assert (found - wanted).abs().max() <= wanted.abs().max() * 2**-11, name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("minicpm-sala", "lightning"),
        ("minicpm-s-1b", "FATReLU"),
        ("minicpm-v", "images"),
        ("minicpm3-4b", "12, 1.4 and 256"),
    ],
)
def test_what_llama_cpp_would_compute_wrongly_is_refused_by_name(tmp_path, name, said):
    folder = tiny_checkpoint(name, tmp_path / "toy")
    with pytest.raises(BadInput, match=said):
        to_gguf(open_checkpoint(folder), tmp_path / "made")


def test_the_packaged_model_is_refused_for_its_tokenizer(tmp_path):
    from minicpm.checkpoint import resolve

    with pytest.raises(TokenizerError, match=r"llama\.cpp would give text other ids"):
        to_gguf(open_checkpoint(resolve("nano")), tmp_path / "made")


def test_what_is_left_out_is_noted(tmp_path):
    folder = tiny_checkpoint("minicpm-2b-128k", tmp_path / "toy")
    assert "does not extend" in " ".join(to_gguf(open_checkpoint(folder), tmp_path / "made").notes)


def test_a_target_that_is_a_file_or_holds_anything_is_refused(tmp_path, tiny):
    source = open_checkpoint(tiny)
    with pytest.raises(BadInput, match="name the folder"):
        to_gguf(source, tmp_path / "model.gguf")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine").write_text("")
    with pytest.raises(BadInput, match="not empty"):
        to_gguf(source, tmp_path / "made")
    assert file_in(to_gguf(source, tmp_path / "made", overwrite=True).path)
    assert not (tmp_path / "made" / "mine").exists()


def test_infinite_weights_are_named(tmp_path, tiny):
    source = open_checkpoint(tiny)
    tensors = {name: source.read(name) for name in source.tensors}
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = torch.inf
    for shard in tiny.glob("model*"):
        shard.unlink()
    save_file(tensors, tiny / "model.safetensors")
    with pytest.raises(NotFinite, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        to_gguf(open_checkpoint(tiny), tmp_path / "made", type="Q8_0")
    assert not (tmp_path / "made").exists()


def test_a_folder_without_all_weights_is_refused_before_anything_is_written(tmp_path, tiny):
    raw = json.loads((tiny / "config.json").read_text()) | {"num_hidden_layers": 4}
    (tiny / "config.json").write_text(json.dumps(raw))
    with pytest.raises(WeightMismatch, match=r"layers\.3"):
        to_gguf(open_checkpoint(tiny), tmp_path / "made")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("minicpm4-0.5b", "{{- range .Messages }}<|im_start|>{{ .Role }}"),
        ("minicpm-1b", '{{- range .Messages }}{{ if eq .Role "user" }}<用户>{{ .Content }}<AI>'),
    ],
)
def test_a_modelfile_has_the_template_the_stops_and_the_parameters(tmp_path, name, line):
    source = open_checkpoint(tiny_checkpoint(name, tmp_path / "toy"))
    written = modelfile("x.gguf", source, parse(source.raw_config))
    assert written.startswith("FROM ./x.gguf\nTEMPLATE")
    assert line in written
    assert 'PARAMETER stop "</s>"' in written
    assert ('PARAMETER stop "<|im_end|>"' in written) == (name == "minicpm4-0.5b")
    assert "PARAMETER temperature 0.7\nPARAMETER top_p 0.7\n" in written


@pytest.mark.parametrize("name", ["minicpm4.1-8b", "minicpm5-1b"])
def test_a_modelfile_can_switch_thinking_off_where_the_model_can(tmp_path, name):
    source = open_checkpoint(tiny_checkpoint(name, tmp_path / "toy"))
    written = modelfile("x.gguf", source, parse(source.raw_config))
    assert ('{{ if eq .Role "assistant" }}<think>' in written) == (name == "minicpm5-1b")
    assert "$.IsThinkSet (not $.Think) }}<think>\n\n</think>" in written


def test_a_template_of_its_own_is_left_to_the_file(tmp_path, tiny):
    (tiny / "chat_template.jinja").write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    source = open_checkpoint(tiny)
    written = modelfile("x.gguf", source, parse(source.raw_config))
    assert "TEMPLATE" not in written
    assert "# The model's own template" in written


KILLED = """
import sys
from minicpm.checkpoint import open_checkpoint
from minicpm.convert.gguf_export import to_gguf
source = open_checkpoint(sys.argv[1])
print("ready", flush=True)
while True:
    for kind in ("F16", "Q8_0"):
        to_gguf(source, __import__("pathlib").Path(sys.argv[2]), type=kind, overwrite=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="kills with a signal; run it on Linux or macOS")
def test_an_export_killed_at_any_moment_leaves_a_whole_folder(tiny, tmp_path):
    target = tmp_path / "out"
    to_gguf(open_checkpoint(tiny), target, type="F32")
    random.seed(1)
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tiny), str(target)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"},
        ) as child:
            assert child.stdout.readline() == "ready\n"
            time.sleep(random.uniform(0.0, 0.3))
            child.kill()
        assert sorted(path.suffix for path in target.iterdir()) == ["", "", ".gguf"]
        done = subprocess.run(
            ["sha256sum", "--check", "SHA256SUMS"], cwd=target, check=False, capture_output=True
        )
        assert done.returncode == 0
        assert open_checkpoint(target).total_bytes > 0
    to_gguf(open_checkpoint(tiny), target, type="F16", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out", "tiny"]


MOUNTED = """
import sys
from pathlib import Path
from minicpm.checkpoint import open_checkpoint
from minicpm.convert import gguf_export
from minicpm.errors import DiskFull
small, tiny, look_ahead = sys.argv[1], sys.argv[2], sys.argv[3] == "1"
if not look_ahead:
    gguf_export.require_room = lambda *a, **k: None
try:
    gguf_export.to_gguf(open_checkpoint(tiny), Path(small) / "made", type="F32")
except DiskFull as error:
    assert "bytes free" in str(error), error
else:
    raise SystemExit("it fitted")
assert list(Path(small).iterdir()) == [], list(Path(small).iterdir())
print("refused")
"""


@pytest.mark.parametrize("look_ahead", ["1", "0"], ids=["seen beforehand", "met on the way"])
def test_a_full_disk_is_a_typed_error_and_leaves_nothing(tiny, on_small_disk, look_ahead):
    done = on_small_disk(MOUNTED, 128, str(tiny), look_ahead)
    assert "refused" in done.stdout, done.stdout + done.stderr
