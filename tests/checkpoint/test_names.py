"""Names and revisions are strict, so none can become a path or an address."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicpm.checkpoint.files import is_bare_name
from minicpm.checkpoint.hub.home import repo_folder
from minicpm.checkpoint.hub.listing import choose_files
from minicpm.checkpoint.hub.names import (
    HubName,
    check_revision,
    from_folder,
    is_commit,
    is_sha256,
    parse_name,
)
from minicpm.errors import BadInput, MiniCPMError, NotOnHub, UnsafeFormat

SRC = Path(__file__).resolve().parents[2] / "src"
HOSTILE = (
    "..",
    "/",
    "\\",
    "%2e%2e",
    "\0",
    "~",
    "org",
    "C:",
    "ms:",
    "--",
    "@",
    "?",
    "#",
    " ",
    "．．",
    "\n",
    ".",
    "-",
)


@pytest.mark.parametrize(
    "text",
    [
        "openbmb/MiniCPM4-0.5B",
        "a/b",
        "openbmb/MiniCPM-2B-sft-bf16",
        "A_b.c/D-e_f.1",
        "ms:OpenBMB/MiniCPM4-8B",
    ],
)
def test_real_names_are_accepted_and_survive_their_folder(text):
    name = parse_name(text)
    assert str(name) == text
    assert from_folder(name.folder) == name


@pytest.mark.parametrize(
    "text",
    ["", "a", "/", "a/", "/b", "a/b/c", "../b", "a/..", "a/b--c", "a/-b", "a/b-", "a/.b", "a/b.", "a b/c",
     "é/b", "ms:", "ms:a", "hf:a/b", "a/b\n", "https://huggingface.co/a/b", "a/" + "b" * 97,
     "a/b@main", "a\\b/c"],
)  # fmt: skip
def test_anything_else_is_refused(text):
    with pytest.raises(BadInput, match="ORG/NAME"):
        parse_name(text)


@pytest.mark.parametrize("text", ["main", "v1.0", "refs/pr/3", "a" * 40])
def test_real_revisions_are_accepted(text):
    assert check_revision(text) == text


@pytest.mark.parametrize("text", ["", "../x", "/x", "x/", "a..b", "a b", "a?b", "x" * 201, "a//b", "-x"])
def test_other_revisions_are_refused(text):
    with pytest.raises(BadInput, match="revision"):
        check_revision(text)


def test_a_name_of_another_hub_has_a_folder_of_its_own():
    assert parse_name("ms:a/b").folder != parse_name("a/b").folder
    assert from_folder("ms--a--b") == HubName("ms", "a", "b")
    assert from_folder("ms--a") == HubName("hf", "ms", "a")
    for stranger in ("a", "a--b--c", "x--a--b", "--", ".locks", "a--b--"):
        assert from_folder(stranger) is None


def test_fuzzed_names_never_lead_outside_the_cache(own_cache):
    """Ten thousand hostile names: refused, or a folder directly inside the cache's models."""
    random.seed(0)
    models = own_cache / "models"
    for _ in range(10_000):
        text = "".join(random.choice((*HOSTILE, "a", "B", "7")) for _ in range(random.randint(1, 8)))
        try:
            folder = repo_folder(parse_name(text))
        except BadInput:
            continue
        assert folder.parent == models
        assert os.path.normpath(folder) == str(folder)


FUZZ = """
import os, random, sys
from minicpm.checkpoint import resolve
from minicpm.errors import MiniCPMError
pieces = {pieces!r}
allowed = (os.environ["MINICPM_HOME"], sys.prefix, sys.base_prefix, {src!r})
def hook(event, arguments):
    if event in ("open", "os.mkdir", "os.rename", "os.listdir") and isinstance(arguments[0], (str, bytes)):
        path = os.path.abspath(os.fsdecode(arguments[0]))
        if not path.startswith(allowed):
            print("touched", path)
sys.addaudithook(hook)
random.seed(0)
for _ in range(10_000):
    name = "".join(random.choice(pieces) for _ in range(random.randint(1, 8)))
    try:
        resolve(name, offline=True)
    except MiniCPMError:
        pass
print("done")
"""


def test_fuzzed_names_open_nothing_outside_the_cache(tmp_path, own_cache):
    code = FUZZ.format(pieces=[piece for piece in (*HOSTILE, "a", "B") if piece != "\0"], src=str(SRC))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(SRC)},
    )
    assert done.stdout == "done\n", done.stdout[:2000]


@given(st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_name_or_a_typed_error(text):
    for parse in (parse_name, check_revision):
        message = ""
        try:
            parse(text)
        except MiniCPMError as error:
            message = str(error)
        assert message.isprintable()


def test_commits_and_sums_are_lowercase_hexadecimal_of_full_length():
    assert is_commit("0" * 40)
    assert is_commit("f" * 64)
    assert is_sha256("0" * 64)
    for wrong in ("0" * 39, "G" * 40, "A" * 40, "../" + "0" * 37, None, 5, "０" * 40):
        assert not is_commit(wrong)
        assert not is_sha256(wrong)


@pytest.mark.parametrize("name", ["config.json", "model-00001-of-00002.safetensors", "模型.json", "a b"])
def test_bare_file_names(name):
    assert is_bare_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "C:x", "a\0b", "a\nb", "/a", "a*"])
def test_file_names_that_could_lead_elsewhere(name):
    assert not is_bare_name(name)


def test_only_what_a_model_needs_is_chosen():
    name = parse_name("a/b")
    many = [
        "config.json",
        "model.safetensors",
        "x.py",
        "pytorch_model.bin",
        "onnx/model.onnx",
        "tf_model.h5",
        "LICENSE",
    ]
    assert choose_files(name, many) == ["LICENSE", "config.json", "model.safetensors"]
    assert choose_files(name, ["config.json", "weights.safetensors"]) == [
        "config.json",
        "weights.safetensors",
    ]
    assert choose_files(name, ["config.json", "model.safetensors", "consolidated.safetensors"]) == [
        "config.json",
        "model.safetensors",
    ]
    with pytest.raises(UnsafeFormat):
        choose_files(name, ["config.json", "pytorch_model.bin"])
    with pytest.raises(NotOnHub):
        choose_files(name, ["model.safetensors"])


def test_names_and_lists_need_no_torch():
    """`minicpm list` imports this much."""
    code = (
        "import sys, minicpm.checkpoint as c; c.list_models; c.resolve; c.open_checkpoint; c.remove; c.pull; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'huggingface_hub', 'numpy')))"
    )
    environment = os.environ | {"PYTHONPATH": str(SRC)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
