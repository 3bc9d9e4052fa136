"""`minicpm convert` and what can be done with the GGUF files that it makes."""

import json

import pytest

from minicpm.testing import tiny_checkpoint
from minicpm.testing.tiny_lora import tiny_adapter


@pytest.fixture
def made(program, tiny, tmp_path):
    done = program("convert", str(tiny), str(tmp_path / "made"), "--to", "gguf", "--type", "q8_0")
    assert (done.code, done.out) == (0, f"{tmp_path / 'made'}\n"), done.err
    (file,) = (tmp_path / "made").glob("*-Q8_0.gguf")
    return file


def test_a_gguf_file_is_shown_and_run_like_a_folder(program, made):
    shown = json.loads(program("show", str(made), "--json").out)
    assert shown["stored_as"] == ["F32", "Q8_0"]
    assert program("show", str(made), "--template").out
    assert program("run", str(made), "-p", "hello", "--max-tokens", "2").code == 0
    assert program("run", str(made.parent), "-p", "hello", "--max-tokens", "2").code == 0


def test_a_gguf_file_becomes_a_folder_again(program, made, tmp_path):
    assert program("convert", str(made), str(tmp_path / "back")).code == 0
    assert program("run", str(tmp_path / "back"), "-p", "hello", "--max-tokens", "2").code == 0
    folded = program("convert", str(made), str(tmp_path / "llama"), "--to", "llama")
    assert folded.code == 0, folded.err


def test_a_dry_run_prints_sizes_only(program, tiny, tmp_path):
    done = program("convert", str(tiny), str(tmp_path / "made"), "--to", "gguf", "--dry-run")
    assert done.code == 0
    assert ".gguf" in done.out
    assert " bytes" in done.out
    assert not (tmp_path / "made").exists()


def test_an_adapter_becomes_a_gguf_file(program, tiny, tmp_path):
    adapter = tiny_adapter(tmp_path / "adapter", tiny)
    made = program("convert", str(adapter), str(tmp_path / "made"), "--to", "gguf")
    assert made.code == 0, made.err
    assert (tmp_path / "made" / "adapter-lora.gguf").is_file()
    nameless = tiny_adapter(tmp_path / "nameless", tiny, base_model_name_or_path=None)
    program("convert", str(nameless), str(tmp_path / "x"), "--to", "gguf").refused("--base")
    named = program("convert", str(nameless), str(tmp_path / "y"), "--to", "gguf", "--base", str(tiny))
    assert named.code == 0, named.err


def test_what_makes_no_sense_is_refused(program, tiny, made, tmp_path):
    new = str(tmp_path / "new")
    program("convert", str(tiny), new, "--to", "gguf", "--type", "Q9").refused("Q4_K_M")
    program("convert", str(tiny), new, "--to", "mlx", "--type", "Q8_0").refused("--to gguf")
    program("convert", str(tiny), new, "--to", "gguf", "--base", "nano").refused("LoRA")
    program("convert", str(tiny), str(tmp_path / "x.gguf"), "--to", "gguf").refused("name the folder")
    made.write_bytes(made.read_bytes()[:1000])
    program("convert", str(made), new).refused("ends at byte 1000")
    program("run", str(made), "-p", "x").refused("ends at byte 1000")


def test_a_model_that_llama_cpp_does_not_know_is_refused(program, tmp_path):
    sala = tiny_checkpoint("minicpm-sala", tmp_path / "sala")
    program("convert", str(sala), str(tmp_path / "new"), "--to", "gguf").refused("minicpm-sala")
