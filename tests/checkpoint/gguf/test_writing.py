"""What is written is read, by our reader and by another, as what was given."""

import io

import gguf
import pytest
import torch

from minicpm.checkpoint.gguf.decoding import decode_blocks, read_rows
from minicpm.checkpoint.gguf.encoding import encode_blocks
from minicpm.checkpoint.gguf.reading import read_gguf
from minicpm.checkpoint.gguf.types import BLOCK_TYPES, by_name
from minicpm.checkpoint.gguf.values import (
    boolean,
    f32,
    f32s,
    i32,
    i32s,
    string,
    strings,
    u32,
    u32s,
    u64,
)
from minicpm.checkpoint.gguf.writing import TensorPlan, size_of, write_gguf
from minicpm.errors import BadInput

METADATA = {
    "general.architecture": string("minicpm"),
    "minicpm.block_count": u32(2**32 - 1),
    "minicpm.embedding_scale": f32(1.5),
    "a.signed": i32(-3),
    "a.long": u64(2**63),
    "a.truth": boolean(False),
    "a.text": string("中 \0 \N{GRINNING FACE}"),
    "tokenizer.ggml.tokens": strings(["", "a", "中"]),
    "tokenizer.ggml.scores": f32s([0.5, -1e-3]),
    "tokenizer.ggml.token_type": i32s([1, -2]),
    "a.counts": u32s([1, 2**31]),
    "a.nothing": strings([]),
}
VALUES = {key: typed.value for key, typed in METADATA.items()}
VALUES["tokenizer.ggml.scores"] = [0.5, torch.tensor(-1e-3).item()]


@pytest.fixture
def written(tmp_path):
    """A file with a matrix of every type, and its plans and bytes."""
    generator = torch.Generator().manual_seed(0)
    plans, data = [], []
    for number, type in enumerate(BLOCK_TYPES.values()):
        weight = torch.randn(number + 1, 256, generator=generator)
        plans.append(TensorPlan(f"blk.{number}.{type.name}", tuple(weight.shape), type))
        data.append(encode_blocks(type, weight))
    path = tmp_path / "ours.gguf"
    with path.open("wb") as file:
        write_gguf(file, METADATA, plans, data)
    return path, plans, data


def test_our_reader_reads_what_was_written(written):
    path, plans, data = written
    file = read_gguf(path)
    assert (file.version, file.alignment) == (3, 32)
    assert file.metadata == VALUES
    assert list(file.tensors) == [plan.name for plan in plans]
    for plan, rows in zip(plans, data, strict=True):
        found = file.tensors[plan.name]
        assert (found.shape, found.type, found.nbytes) == (plan.shape, plan.type, plan.nbytes)
        assert found.offset % 32 == 0
        assert torch.equal(read_rows(found), rows)


def test_another_reader_reads_what_was_written(written):
    path, plans, data = written
    reader = gguf.GGUFReader(path)
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    read = {key: field.contents() for key, field in fields.items() if field.data}
    assert read == {key: value for key, value in VALUES.items() if value != []}
    for plan, rows, theirs in zip(plans, data, reader.tensors, strict=True):
        assert theirs.name == plan.name
        assert tuple(reversed(theirs.shape.tolist())) == plan.shape
        assert theirs.tensor_type == plan.type.number
        values = gguf.quants.dequantize(theirs.data, theirs.tensor_type)
        assert torch.equal(torch.from_numpy(values.copy()), decode_blocks(plan.type, rows))


def test_size_is_known_before(written):
    path, plans, _ = written
    assert path.stat().st_size == size_of(METADATA, plans)
    assert size_of({}, []) == 32


def test_tensors_are_taken_one_at_a_time_and_progress_is_told():
    plans = [TensorPlan("a", (3, 32), by_name("Q8_0")), TensorPlan("b", (5,), by_name("BF16"))]
    file, told = io.BytesIO(), []

    def data():
        yield bytes(102)
        assert told == [(102, 112, "a")]
        yield torch.ones(5, dtype=torch.bfloat16)

    write_gguf(file, {}, plans, data(), progress=lambda *state: told.append(state))
    assert told == [(102, 112, "a"), (112, 112, "b")]
    assert len(file.getvalue()) == size_of({}, plans)
    assert file.getvalue()[-32:-22] == 5 * b"\x80\x3f"


def test_what_could_not_be_read_again_is_not_written():
    f32_type = by_name("F32")
    for name, shape, type in [
        ("", (4,), f32_type), ("n" * 64, (4,), f32_type), ("a", (), f32_type), ("a", (1,) * 5, f32_type),
        ("a", (0, 4), f32_type), ("a", (2, 33), by_name("Q8_0")),
    ]:  # fmt: skip
        with pytest.raises(AssertionError):
            TensorPlan(name, shape, type)
    plan = TensorPlan("a", (4,), f32_type)
    with pytest.raises(AssertionError, match="two tensors"):
        size_of({}, [plan, plan])
    with pytest.raises(AssertionError, match="aligned"):
        size_of({"general.alignment": u32(64)}, [])
    with pytest.raises(AssertionError, match="15 bytes, 16 are announced"):
        write_gguf(io.BytesIO(), {}, [plan], [bytes(15)])


@pytest.mark.parametrize(
    "typed",
    [u32(-1), u32(2**32), i32(2**31), f32(1e39), string("\ud800"), strings(["a", "\udfff"]), u32s([2**40])],
)
def test_values_that_a_kind_does_not_hold_are_refused_before_anything_is_written(typed):
    file = io.BytesIO()
    with pytest.raises(BadInput, match=f"'a.key' cannot be written to GGUF as {typed.kind.name}"):
        write_gguf(file, {"a.key": typed}, [], [])
    assert file.getvalue() == b""
