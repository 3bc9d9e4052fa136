"""A second start takes packed weights from a file, to the same bits; one that is not right is made again."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import minicpm
from minicpm.checkpoint import list_models, loading, open_checkpoint, packed_cache, remove
from minicpm.checkpoint.hub.manifest import FileRecord, Manifest, sha256_of, write_manifest
from minicpm.errors import BadParameter
from minicpm.layers.native_linear import NativeLinear
from minicpm.ops.native import absence
from minicpm.testing import families, tiny_checkpoint

pytestmark = pytest.mark.skipif(
    absence() is not None, reason="needs the compiled part; `make setup` builds it"
)
SRC = Path(__file__).resolve().parents[2] / "src"
IDS = torch.arange(40) % 23
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache of the test's own, which keeps the smallest model too."""
    monkeypatch.setenv("MINICPM_PACKED_CACHE", "1")
    monkeypatch.setenv("MINICPM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(packed_cache, "WORTH_BYTES", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path / "home"
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path):
    return tiny_checkpoint("minicpm4-0.5b", tmp_path / "toy", dtype="bfloat16")


@pytest.fixture
def rounded(monkeypatch):
    """How often weights were rounded or packed, rather than taken from a file."""
    made = []
    hold = loading._hold
    monkeypatch.setattr(loading, "_hold", lambda *a, **k: (made.append(a), hold(*a, **k))[1])
    return made


def start(folder, weights="int4", **options):
    return minicpm.load_decoder(folder, weights=weights, backend="native", **options)


@torch.no_grad()
def logits(decoder):
    return decoder.logits_for(IDS)


def kept(home):
    return sorted(path for path in home.rglob("*") if path.is_file())


def the_file(home):
    (path,) = [path for path in kept(home) if path.suffix == ".bin"]
    return path


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("family", families())
def test_a_second_start_gives_the_bits_of_the_first(family, weights, tmp_path, home, rounded):
    folder = tiny_checkpoint(family, tmp_path / "toy", dtype="bfloat16")
    first, then = start(folder, weights), start(folder, weights)
    assert len(rounded) == 1
    assert torch.equal(logits(then), logits(first))
    wanted = dict(first.published_state())
    found = dict(then.published_state())
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], weight) for name, weight in wanted.items())
    assert {path.suffix for path in kept(home)} == {".bin", ".stamps"}


@pytest.mark.parametrize("weights", ["packed", "ternary"])
def test_ternary_weights_are_kept_too(weights, tmp_path, rounded):
    folder = tiny_checkpoint("bitcpm4-1b", tmp_path / "toy", dtype="bfloat16")
    first, then = start(folder, weights), start(folder, weights)
    assert len(rounded) == 1
    assert torch.equal(logits(then), logits(first))


def test_projections_that_the_kernels_do_not_hold_are_kept_as_codes(tmp_path, rounded):
    """As kv_b_proj of latent attention is, and so is whatever the kernels know no format for."""
    folder = tiny_checkpoint("minicpm3-4b", tmp_path / "toy", dtype="bfloat16", kv_lora_rank=32)
    first, then = start(folder), start(folder)
    name = "model.layers.0.self_attn.kv_b_proj"
    assert type(then.get_submodule(name)) is type(first.get_submodule(name))
    assert torch.equal(logits(then), logits(first))
    assert len(rounded) == 1


def test_matrices_are_joined_as_preparing_joins_them(folder):
    start(folder)
    attention = start(folder).model.layers[0].self_attn
    assert isinstance(attention.q_proj, NativeLinear)
    assert attention.q_proj.matrix is attention.v_proj.matrix
    assert attention.fused is attention.q_proj.matrix


def test_each_way_to_hold_weights_has_a_file_of_its_own(folder, home, rounded):
    for _ in range(2):
        start(folder, "int4")
        start(folder, "int8")
    assert len(rounded) == 2
    assert sorted(path.name for path in kept(home)) == ["int4.bin", "int4.stamps", "int8.bin", "int8.stamps"]


def test_a_context_and_a_sparse_mode_share_the_file(folder, rounded):
    start(folder)
    start(folder, context=256, sparse="on")
    assert len(rounded) == 1


@pytest.mark.parametrize("options", [{"backend": "torch"}, {"weights": "plain"}, {"prepare": False}])
def test_what_is_not_packed_for_the_kernels_is_not_kept(options, folder, home):
    minicpm.load_decoder(folder, **{"weights": "int4"} | options)
    assert kept(home) == []


def test_what_is_made_again_in_a_moment_is_not_kept(folder, home, monkeypatch):
    monkeypatch.setattr(packed_cache, "WORTH_BYTES", 1 << 30)
    start(folder)
    assert kept(home) == []


def test_it_can_be_switched_off(folder, home, monkeypatch, rounded):
    start(folder)
    monkeypatch.setenv("MINICPM_PACKED_CACHE", "0")
    start(folder)
    assert len(rounded) == 2
    monkeypatch.setenv("MINICPM_PACKED_CACHE", "no")
    with pytest.raises(BadParameter, match="MINICPM_PACKED_CACHE is 'no'"):
        start(folder)


def change_a_weight(folder):
    shard = sorted(folder.glob("*.safetensors"))[0]
    content = bytearray(shard.read_bytes())
    content[-100] ^= 0x40
    shard.write_bytes(content)


def test_changed_weights_are_noticed(folder, rounded):
    before = logits(start(folder))
    change_a_weight(folder)
    after = logits(start(folder))
    assert len(rounded) == 2
    assert not torch.equal(before, after)
    start(folder)
    assert len(rounded) == 2


def test_a_file_that_was_only_touched_is_read_once_and_then_trusted(folder, rounded, monkeypatch):
    from minicpm.checkpoint import sources

    start(folder)
    os.utime(sorted(folder.glob("*.safetensors"))[0])
    hashed = []
    monkeypatch.setattr(sources, "sha256_of", lambda path: (hashed.append(path), sha256_of(path))[1])
    start(folder)
    read = len(hashed)
    assert read > 0
    start(folder)
    assert len(hashed) == read
    assert len(rounded) == 1


@pytest.mark.parametrize("note", [b"", b"{", b"[1]", b'{"a": 3}'])
def test_a_damaged_note_costs_time_only(note, folder, home, rounded):
    start(folder)
    the_file(home).with_suffix(".stamps").write_bytes(note)
    start(folder)
    assert len(rounded) == 1


def test_weights_that_change_while_they_are_loaded_are_not_kept(folder, home, monkeypatch):
    fill = loading.fill

    def changing(*a, **k):
        os.utime(sorted(folder.glob("*.safetensors"))[0], (1, 1))
        return fill(*a, **k)

    monkeypatch.setattr(loading, "fill", changing)
    start(folder)
    assert kept(home) == []


@pytest.mark.parametrize("what", ["_FORMAT", "LAYOUT", "__version__"])
def test_a_file_of_another_version_is_made_again(what, folder, monkeypatch, rounded):
    start(folder)
    monkeypatch.setattr(packed_cache, what, "other")
    start(folder)
    start(folder)
    assert len(rounded) == 2


START = 1 << 16
SPOILT = {
    "empty": lambda content: b"",
    "another magic": lambda content: b"X" + content[1:],
    "prelude cut": lambda content: content[:10],
    "header cut": lambda content: content[:2000],
    "header changed": lambda content: content[:30] + bytes([content[30] ^ 1]) + content[31:],
    "no data": lambda content: content[:START],
    "data cut": lambda content: content[: START + 5000],
    "last byte gone": lambda content: content[:-1],
    "longer": lambda content: content + bytes(1),
    "torn": lambda content: content[:START] + bytes(4096) + content[START + 4096 :],
    "a bit": lambda content: content[:-1000] + bytes([content[-1000] ^ 8]) + content[-999:],
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoiled_file_is_ignored_and_made_again(how, folder, home, rounded):
    wanted = logits(start(folder))
    content = the_file(home).read_bytes()
    the_file(home).write_bytes(SPOILT[how](content))
    assert torch.equal(logits(start(folder)), wanted)
    assert len(rounded) == 2
    assert the_file(home).read_bytes() == content
    assert torch.equal(logits(start(folder)), wanted)
    assert len(rounded) == 2


def test_a_file_of_another_model_is_ignored(folder, tmp_path, home, rounded):
    start(folder)
    content = the_file(home).read_bytes()
    wanted = logits(start(folder))
    shutil.rmtree(home)
    other = tiny_checkpoint("minicpm4-0.5b", tmp_path / "other", dtype="bfloat16", seed=1)
    start(other)
    the_file(home).write_bytes(content)
    assert not torch.equal(logits(start(other)), wanted)
    assert len(rounded) == 3


def test_two_processes_at_once_both_succeed(folder, home):
    script = (
        "import sys, minicpm\n"
        "from minicpm.checkpoint import packed_cache\n"
        "packed_cache.WORTH_BYTES = 0\n"
        "sys.stdin.readline()\n"
        "d = minicpm.load_decoder(sys.argv[1], weights='int4', backend='native')\n"
        "print(float(d.logits_for([1, 2, 3]).sum()))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
    for child in both:
        child.stdin.write("\n")
        child.stdin.flush()
    answers = [child.communicate(timeout=120) for child in both]
    assert [child.returncode for child in both] == [0, 0], answers
    assert answers[0][0] == answers[1][0]
    assert sorted(path.name for path in kept(home)) == ["int4.bin", "int4.stamps"]


def test_remains_of_killed_writers_are_removed(folder, home):
    start(folder)
    left = the_file(home).with_name(".int4.bin.00112233")
    left.write_bytes(b"half")
    the_file(home).unlink()
    start(folder)
    assert not left.exists()


def test_a_place_that_cannot_be_written_is_done_without(folder, home, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    monkeypatch.setenv("MINICPM_HOME", str(blocked))
    assert logits(start(folder)).isfinite().all()
    assert blocked.read_bytes() == b""


def test_a_write_that_fails_leaves_nothing(folder, home, monkeypatch):
    from minicpm.checkpoint import atomic

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "sync_file", full)
    assert logits(start(folder)).isfinite().all()
    assert kept(home) == []


def test_a_file_that_would_take_more_than_half_of_what_is_free_is_not_written(folder, home, monkeypatch):
    monkeypatch.setattr(packed_cache.disk, "free_bytes", lambda folder: 100_000)
    start(folder)
    assert kept(home) == []


FULL = """
import sys
import minicpm
from pathlib import Path
from minicpm.checkpoint import packed_cache, disk
packed_cache.WORTH_BYTES = 0
if sys.argv[3] == "0":
    disk.free_bytes = lambda folder: 1 << 40
decoder = minicpm.load_decoder(sys.argv[2], weights="int4", backend="native")
assert decoder.logits_for([1, 2, 3]).isfinite().all()
left = [path for path in Path(sys.argv[1]).rglob("*") if path.is_file()]
assert left == [], left
print("went on without")
"""


@pytest.mark.parametrize("look_ahead", ["1", "0"], ids=["seen beforehand", "met on the way"])
def test_a_full_disk_is_done_without(look_ahead, folder, on_small_disk):
    done = on_small_disk(FULL, 64, str(folder), look_ahead, home=True)
    assert "went on without" in done.stdout, done.stdout + done.stderr


@pytest.fixture
def pulled(home):
    """A toy in the place of a pulled model."""
    folder = tiny_checkpoint("minicpm4-0.5b", home / "models" / "org--toy" / COMMIT, dtype="bfloat16")
    records = {
        path.name: FileRecord(path.stat().st_size, sha256_of(path)) for path in sorted(folder.iterdir())
    }
    write_manifest(folder, Manifest("org/toy", "https://huggingface.co", "main", COMMIT, records))
    return folder


def test_the_file_of_a_pulled_model_lies_beside_it_and_goes_with_it(pulled, home, rounded):
    (plain,) = list_models()
    start(pulled)
    start(pulled)
    assert len(rounded) == 1
    (listed,) = list_models()
    made = sorted(pulled.glob("minicpm-packed-*"))
    assert [path.name for path in made] == ["minicpm-packed-int4.bin", "minicpm-packed-int4.stamps"]
    assert listed.complete
    assert listed.bytes == plain.bytes + sum(path.stat().st_size for path in made)
    assert remove("org/toy") == listed.bytes
    assert list_models() == []
    assert not (home / "packed").exists()


def test_the_sums_of_a_pulled_model_are_not_made_again(pulled, monkeypatch, rounded):
    from minicpm.checkpoint import sources

    monkeypatch.setattr(sources, "sha256_of", lambda path: pytest.fail(f"{path} was read"))
    start(pulled)
    start(pulled)
    assert len(rounded) == 1


def test_a_pulled_model_opens_as_before(pulled):
    start(pulled)
    assert {path.suffix for path in open_checkpoint(pulled).files} == {".safetensors"}


def test_files_of_folders_that_are_gone_are_removed(folder, tmp_path, home):
    start(folder)
    assert len(kept(home)) == 2
    moved = folder.rename(tmp_path / "moved")
    start(moved)
    assert len([path for path in kept(home) if path.suffix == ".bin"]) == 1
