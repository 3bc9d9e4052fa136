"""Every bad input is refused with a sentence and exit code 2, never a traceback."""

import json
import os

import pytest

from minicpm.checkpoint import open_checkpoint


def test_a_model_that_does_not_exist(program):
    program("chat", "nonsense", stdin=b"hello").refused("'nonsense'", "minicpm models")


def test_a_folder_that_does_not_exist(program):
    program("run", "./nowhere", "-p", "hello").refused("./nowhere", "does not exist")


def test_a_hub_model_without_a_network(program):
    program("run", "openbmb/MiniCPM4-0.5B", "-p", "hello").refused("HF_HUB_OFFLINE", "minicpm pull")


def test_an_empty_folder(program, tmp_path):
    (tmp_path / "empty").mkdir()
    program("chat", str(tmp_path / "empty"), stdin=b"hello").refused("config.json", "empty")
    program("show", str(tmp_path / "empty")).refused("config.json", "empty")


def test_a_config_that_is_not_json(program, broken):
    folder = broken("config.json", b"{not json")
    program("chat", folder, stdin=b"hello").refused("config.json", "JSON")
    program("show", folder).refused("config.json", "JSON")


def test_a_config_of_an_unknown_architecture(program, broken, tiny):
    raw = open_checkpoint(tiny).raw_config | {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
    folder = broken("config.json", json.dumps(raw).encode())
    program("run", folder, "-p", "hello").refused("GPT2LMHeadModel", "MiniCPMForCausalLM")


def test_a_weight_file_that_is_an_lfs_pointer(program, broken, tiny):
    name = open_checkpoint(tiny).files[0].name
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12\n"
    program("run", broken(name, pointer), "-p", "hello").refused("LFS", name)


def test_a_cut_weight_file(program, broken, tiny):
    file = open_checkpoint(tiny).files[0]
    program("run", broken(file.name, file.read_bytes()[:-5]), "-p", "hello").refused(file.name)


@pytest.mark.parametrize("dtype", ["int7", "", "bfloat", "torch.complex64"])
def test_a_wrong_dtype_before_anything_is_read(dtype, program):
    program("run", "openbmb/MiniCPM4-8B", "-p", "hello", "--dtype", dtype).refused(repr(dtype), "bfloat16")


def test_a_wrong_backend_before_anything_is_read(program):
    program("run", "openbmb/MiniCPM4-8B", "-p", "hello", "--backend", "fast").refused("'fast'", "reference")


def test_a_wrong_device(program, tiny):
    program("run", str(tiny), "-p", "hello", "--device", "toaster").refused("toaster", "cpu")


@pytest.mark.parametrize("verb", ["chat", "run"])
def test_a_prompt_longer_than_the_context(verb, program, tiny):
    arguments = [verb, str(tiny), "--context", "64", "--max-tokens", "4"]
    done = program(*arguments, stdin="说".encode() * 500)
    assert done.code == 2
    assert done.out == ""
    assert "takes" in done.err.splitlines()[0], "the memory of an asked-for context is said first"
    assert "64" in done.err.splitlines()[-1]
    assert "Nothing is cut" in done.err


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--max-tokens", "0", "max_tokens"),
        ("--max-tokens", "-3", "max_tokens"),
        ("--temperature", "-0.5", "temperature"),
        ("--temperature", "nan", "temperature"),
        ("--temperature", "inf", "temperature"),
        ("--top-p", "0", "top_p"),
        ("--top-p", "1.5", "top_p"),
        ("--top-k", "-1", "top_k"),
        ("--min-p", "2", "min_p"),
        ("--repetition-penalty", "0", "repetition_penalty"),
        ("--seed", str(2**70), "seed"),
    ],
)
@pytest.mark.parametrize("verb", ["chat", "run"])
def test_sampling_out_of_range_before_anything_is_loaded(verb, option, value, named, program):
    program(verb, "openbmb/MiniCPM4-8B", option, value, stdin=b"hello").refused(named)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--max-tokens", "many"), ("--temperature", "hot"), ("--thinking", "maybe"), ("--context", "1.5")],
)
def test_values_of_the_wrong_kind(option, value, program):
    program("chat", option, value, stdin=b"hello").refused(option, value)


def test_all_problems_of_sampling_at_once(program):
    program("run", "nano", "-p", "x", "--top-p", "7", "--max-tokens", "0").refused("top_p", "max_tokens")


def test_a_list_of_ten_thousand_stops(program):
    stops = [part for i in range(10_000) for part in ("--stop", f"stop {i}")]
    done = program("run", "nano", "-p", "x", *stops).refused("stop", "10,000")
    assert len(done.err) < 1000


def test_a_context_beyond_the_models_reach(program, tiny):
    program("run", str(tiny), "-p", "x", "--context", "131072").refused("131072", "32768")
    program("run", str(tiny), "-p", "x", "--context", "0").refused("at least 1")


def test_a_context_that_does_not_fit_the_memory(program, tiny, monkeypatch):
    from minicpm.checkpoint.available import Limit

    monkeypatch.setattr(
        "minicpm.checkpoint.plan.memory_limits", lambda: [Limit("the test's memory", 1 << 20)]
    )
    done = program("run", str(tiny), "-p", "x", "--context", "32768")
    assert done.code == 2
    assert "A context of 32,768 tokens takes 24.4 MiB" in done.err
    assert "The test's memory leaves 1.0 MiB" in done.err


@pytest.mark.parametrize("text", [b"\xff\xfehello", b"good until here: \xe4\xbd", b"\x80"])
def test_standard_input_that_is_not_utf8(text, program):
    done = program("chat", stdin=text).refused("UTF-8", "0x")
    assert f"byte {text.index(bytes([int(done.err.split('0x')[1][:2], 16)])) + 1}" in done.err


@pytest.mark.parametrize("text", [b"", b"\n\n", b"\xef\xbb\xbf", b"  \t\n"])
def test_standard_input_without_a_message(text, program):
    program("chat", stdin=text).refused("empty")
    program("run", "nano", stdin=text).refused("empty")


def test_an_empty_prompt(program):
    program("run", "nano", "-p", "").refused("empty")


def test_raw_text_goes_with_no_system_message(program):
    program("run", "nano", "-p", "x", "--raw", "--system", "be nice").refused("--raw", "--system")


def test_special_tokens_typed_by_a_user_are_text(program, tiny):
    done = program("run", str(tiny), "-p", "<|im_end|><s>\x00", "--max-tokens", "2")
    assert done.code == 0, done.err


@pytest.mark.skipif(os.name == "nt", reason="folders inside files are a matter of POSIX")
def test_a_cache_that_cannot_be_written(program, hub, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINICPM_HOME", str(tmp_path / "file" / "cache"))
    program("pull", hub.name).refused("cannot be written", "MINICPM_HOME")


@pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere; run this as a user"
)
def test_a_cache_that_is_read_only(program, hub, tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir(mode=0o500)
    program("pull", hub.name).refused("cannot be written", "MINICPM_HOME")


def test_no_home(program, hub, tiny, monkeypatch):
    monkeypatch.delenv("MINICPM_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    program("pull", hub.name).refused("HOME", "MINICPM_HOME")
    program("list").refused("HOME")
    done = program("run", str(tiny), "-p", "hello", "--max-tokens", "2")
    assert done.code == 0, done.err


def test_a_disk_without_room_for_a_pull(program, hub, monkeypatch):
    monkeypatch.setattr("minicpm.checkpoint.disk.free_bytes", lambda folder: 1000)
    program("pull", hub.name).refused("1,000 bytes free", "MINICPM_HOME")


def test_a_disk_that_fills_up_while_pulling(program, hub, tmp_path, monkeypatch):
    import errno

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as during:
        during.setattr("minicpm.checkpoint.hub.manifest.write_file", full)
        program("pull", hub.name).refused("free")
    assert program("list").out.count("partial") == 1
    done = program("pull", hub.name)
    assert done.code == 0, done.err
    assert "complete" in program("list").out


def test_names_that_are_no_names(program):
    program("pull", "MiniCPM").refused("ORG/NAME")
    program("pull", "a/../b").refused("ORG/NAME")
    program("rm", "no/such").refused("not in the cache")
    program("pull", "openbmb/MiniCPM4-8B", "--revision", "../x").refused("revision")


def test_what_cannot_be_converted(program, tiny, tmp_path):
    program("convert", str(tiny), str(tmp_path / "new")).refused("nothing to convert")
    program("convert", str(tmp_path / "nowhere"), str(tmp_path / "new")).refused("nowhere")
    assert not (tmp_path / "new").exists()
