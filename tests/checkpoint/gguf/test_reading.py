"""A GGUF header is read as other readers read it, quickly, and without torch."""

import os
import subprocess
import sys
import time
from pathlib import Path

import gguf
import pytest

from minicpm.checkpoint.gguf.reading import read_gguf
from minicpm.checkpoint.gguf.types import BLOCK_TYPES, OTHER_TYPES, by_name
from minicpm.errors import BadInput, CheckpointError, LfsPointer

SRC = Path(__file__).parents[3] / "src"


def test_header_is_read_with_shapes_in_the_order_of_the_model(tmp_path, draft):
    path = draft.write(tmp_path / "sound.gguf")
    file = read_gguf(path)
    assert (file.path, file.version, file.alignment) == (path, 3, 32)
    assert file.metadata == {
        "general.architecture": "minicpm",
        "minicpm.block_count": 2,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.tokens": ["a", "b"],
        "tokenizer.ggml.scores": [0.5, 1.0],
    }
    norm, matrix = file.tensors.values()
    assert (norm.name, norm.shape, norm.type, norm.nbytes) == ("norm", (4,), by_name("F32"), 16)
    assert (matrix.name, matrix.shape, matrix.type, matrix.nbytes) == ("matrix", (2, 32), by_name("Q8_0"), 68)
    assert path.read_bytes()[matrix.offset : matrix.offset + matrix.nbytes] == bytes(range(68))


def test_what_another_writer_wrote_is_read_with_every_kind_of_value(tmp_path):
    path = tmp_path / "theirs.gguf"
    writer = gguf.GGUFWriter(path, "minicpm")
    values = {
        "uint8": 255, "int8": -128, "uint16": 65535, "int16": -32768, "uint32": 2**32 - 1, "int32": -(2**31),
        "uint64": 2**64 - 1, "int64": -(2**63), "float32": 0.5, "float64": 1e300, "bool": True,
        "string": "中 \0 \N{GRINNING FACE}",
    }  # fmt: skip
    arrays = {"ints": [1, -2, 3], "floats": [0.5, 2.0], "texts": ["", "b", "中"], "truths": [True, False]}
    for kind, value in values.items():
        getattr(writer, f"add_{kind}")(f"a.{kind}", value)
    for name, value in arrays.items():
        writer.add_array(f"b.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    metadata = read_gguf(path).metadata
    expected = {f"a.{kind}": value for kind, value in values.items()}
    expected |= {f"b.{name}": value for name, value in arrays.items()}
    assert {key: metadata[key] for key in expected} == expected
    assert metadata["a.bool"] is True


def test_version_2_is_read_as_version_3(tmp_path, draft):
    newer = read_gguf(draft.write(tmp_path / "newer.gguf"))
    draft.version = 2
    older = read_gguf(draft.write(tmp_path / "older.gguf"))
    assert older.version == 2
    assert older.metadata == newer.metadata


def test_tensors_are_placed_by_the_alignment_of_the_file(tmp_path, draft):
    draft.pairs.append(draft.pair("general.alignment", 4, draft.u32(4096)))
    header = sum(map(len, draft.fields()[:-2]))
    draft.tensors[1] = draft.tensor("matrix", [32, 2], 8, 4096)
    draft.data = bytes(4096 - header) + bytes(4096) + bytes(range(68))
    path = tmp_path / "aligned.gguf"
    path.write_bytes(b"".join([*draft.fields()[:-2], draft.data]))
    matrix = read_gguf(path).tensors["matrix"]
    assert matrix.offset == 8192
    assert path.read_bytes()[8192:] == bytes(range(68))


def test_holes_trailing_bytes_odd_names_and_no_tensors_at_all_are_accepted(tmp_path, draft):
    draft.tensors = [draft.tensor("../../x", [4], 0, 0), draft.tensor("\n", [32, 2], 8, 64)]
    draft.data = bytes(64) + bytes(68) + b"more"
    assert list(read_gguf(draft.write(tmp_path / "odd.gguf")).tensors) == ["../../x", "\n"]
    draft.tensors, draft.data = [], b""
    draft.pairs.append(draft.array("empty", 8, 0))
    vocabulary = read_gguf(draft.write(tmp_path / "vocabulary.gguf"))
    assert (vocabulary.tensors, vocabulary.metadata["empty"]) == ({}, [])


def test_types_are_those_of_the_format():
    for type in BLOCK_TYPES.values():
        theirs = gguf.GGMLQuantizationType[type.name]
        assert theirs == type.number
        assert gguf.GGML_QUANT_SIZES[theirs] == (type.block, type.nbytes)
    for theirs in gguf.GGMLQuantizationType:  # a later version may know more
        assert theirs in BLOCK_TYPES or OTHER_TYPES.get(theirs, theirs.name) == theirs.name
    assert not set(BLOCK_TYPES) & set(OTHER_TYPES)


@pytest.mark.parametrize(
    ("name", "words"),
    [("IQ2_XS", "not supported"), ("Q4_K_M", "does not exist"), ("\x1b[", "does not exist")],
)
def test_type_that_is_not_written_is_refused_with_the_list_of_those_that_are(name, words):
    with pytest.raises(BadInput, match=rf"{words}.*Q4_K.*TQ2_0") as caught:
        by_name(name)
    assert "\x1b" not in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "pipe"):
        with pytest.raises(CheckpointError, match="is not a file"):
            read_gguf(path)
    pointer = tmp_path / "pointer.gguf"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(LfsPointer):
        read_gguf(pointer)


def test_vocabulary_of_150_000_tokens_is_read_well_within_a_second(tmp_path, draft):
    tokens = b"".join(draft.text(f"token {number}") for number in range(150_000))
    draft.pairs = [draft.array("tokenizer.ggml.tokens", 8, 150_000, tokens)]
    path = draft.write(tmp_path / "vocabulary.gguf")
    for _ in range(2):
        start = time.perf_counter()
        assert len(read_gguf(path).metadata["tokenizer.ggml.tokens"]) == 150_000
        if time.perf_counter() - start < 0.6:
            return
    pytest.fail(f"took {time.perf_counter() - start:.2f} s, and as long the first time")


def test_reading_a_header_does_without_torch():
    code = "import sys, minicpm.checkpoint.gguf.reading; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(SRC)}, check=True)
