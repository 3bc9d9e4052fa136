"""A weight file that is not sound is refused from its header, quickly and with a typed error."""

import json
import random
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from minicpm.checkpoint.header import ITEM_BYTES, MAX_HEADER_BYTES, read_header
from minicpm.checkpoint.reading import NAMES, TORCH_DTYPES, read_tensor
from minicpm.errors import CheckpointError, MalformedFile, TruncatedFile


def write(path: Path, header, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


ONE = entry([2], 0, 8)
MALFORMED = {
    "not JSON": b"{nope",
    "not UTF-8": b'{"\xff": 1}',
    "a list": [],
    "a number": 7,
    "a name twice": b'{"a":%b,"a":%b}' % ((json.dumps(ONE).encode(),) * 2),
    "deep nesting": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000,
    "a huge number": b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}',
    "entry is a list": {"a": []},
    "no dtype": {"a": {"shape": [2], "data_offsets": [0, 8]}},
    "unknown dtype": {"a": entry([2], 0, 8, "Q4")},
    "dtype is a list": {"a": entry([2], 0, 8, ["F32"])},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
    "negative shape": {"a": entry([-2], 0, 8)},
    "fractional shape": {"a": entry([2.0], 0, 8)},
    "boolean shape": {"a": entry([True, 2], 0, 8)},
    "shape is text": {"a": entry("2", 0, 8)},
    "shape overflow": {"a": entry([2**40, 2**40], 0, 8)},
    "no offsets": {"a": {"dtype": "F32", "shape": [2]}},
    "one offset": {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}},
    "negative offset": {"a": entry([2], -8, 0)},
    "reversed offsets": {"a": entry([2], 8, 0)},
    "size does not fit shape": {"a": entry([3], 0, 8)},
    "overlap": {"a": entry([2], 0, 8), "b": entry([2], 4, 12)},
    "the same place twice": {"a": entry([2], 0, 8), "b": entry([2], 0, 8)},
    "a hole": {"a": entry([2], 0, 8), "b": entry([2], 16, 24)},
    "starts late": {"a": entry([2], 8, 16)},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_header_is_refused_quickly_and_in_little_memory(tmp_path, name):
    path = write(tmp_path / "model.safetensors", MALFORMED[name], bytes(24))
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(MalformedFile, match="not a sound safetensors file"):
        read_header(path)
    elapsed = time.perf_counter() - started
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The list promises 50 ms; tracing makes Python several times slower.
    assert elapsed < 0.5
    assert peak < 64 << 20


def test_lengths_that_do_not_fit_the_file_give_both_numbers(tmp_path):
    path = tmp_path / "model.safetensors"
    for content, expected in (
        (b"", "at least 8 bytes for its header length, it has 0"),
        (b"\x10\0\0", "at least 8 bytes for its header length, it has 3"),
        ((1000).to_bytes(8, "little") + b"{}", "1008 bytes for its header alone, it has 10"),
    ):
        path.write_bytes(content)
        with pytest.raises(TruncatedFile, match=expected):
            read_header(path)
    for length in (2**62, 2**64 - 1, MAX_HEADER_BYTES + 1):
        write(path, b"{}", length=length)
        with pytest.raises(MalformedFile, match=str(length)):
            read_header(path)


@pytest.mark.parametrize(("data", "has"), [(bytes(7), 7), (bytes(9), 9), (b"", 0)])
def test_too_few_or_too_many_bytes_give_both_numbers(tmp_path, data, has):
    path = write(tmp_path / "model.safetensors", {"a": ONE}, data)
    start = path.stat().st_size - has
    with pytest.raises(TruncatedFile, match=f"{start + 8} bytes, it has {start + has}"):
        read_header(path)


def test_too_many_tensors_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("minicpm.checkpoint.header.MAX_TENSORS", 10)
    path = write(tmp_path / "model.safetensors", {f"t{i}": entry([0], 0, 0) for i in range(11)})
    with pytest.raises(MalformedFile, match="11 tensors"):
        read_header(path)


def test_a_hostile_tensor_name_is_only_a_name_and_is_shown_harmlessly(tmp_path):
    path = write(tmp_path / "model.safetensors", {"../../etc/x\x1b[31m": ONE}, bytes(8))
    assert list(read_header(path)) == ["../../etc/x\x1b[31m"]
    write(path, {"\x1b[31m": entry([1], 0, 8)}, bytes(8))
    with pytest.raises(MalformedFile) as caught:
        read_header(path)
    assert str(caught.value).isprintable()


def test_every_dtype_reads_back_as_the_library_wrote_it(tmp_path):
    tensors = {}
    for name, dtype in TORCH_DTYPES.items():
        values = (
            torch.arange(24).reshape(2, 3, 4) % 2
            if dtype == torch.bool
            else torch.arange(24).reshape(2, 3, 4)
        )
        tensors[name] = values.to(dtype)
    tensors["empty"] = torch.empty(0, 3)
    tensors["scalar"] = torch.tensor(1.5)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    header = read_header(tmp_path / "model.safetensors")
    assert header.keys() == tensors.keys()
    for name, tensor in tensors.items():
        found = read_tensor(header[name])
        assert found.dtype == tensor.dtype
        assert found.shape == tensor.shape
        assert torch.equal(found.view(-1).view(torch.uint8), tensor.view(-1).view(torch.uint8))
    assert set(NAMES.values()) == set(ITEM_BYTES)


def test_a_file_that_shrinks_after_it_was_opened_is_noticed(tmp_path):
    path = write(tmp_path / "model.safetensors", {"a": entry([4], 0, 16)}, bytes(16))
    info = read_header(path)["a"]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(TruncatedFile, match="changed after it was opened"):
        read_tensor(info)


def library_accepts(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            list(file.keys())
    except SafetensorError:
        return False
    return True


def test_mutated_files_are_read_or_refused_and_never_trusted_beyond_the_library(tmp_path):
    """Five hundred corrupted files: only typed errors, and nothing accepted that safetensors refuses."""
    random.seed(0)
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(6.0).reshape(2, 3), "b.c": torch.zeros(4, dtype=torch.int64)}, path)
    good = path.read_bytes()
    accepted = 0
    for _ in range(500):
        changed = bytearray(good)
        for _ in range(random.randint(1, 3)):
            at = random.randrange(len(changed) if random.random() < 0.2 else 150)
            changed[at] = random.choice((random.randrange(256), *b'0123456789[]{}",:-'))
        path.write_bytes(changed[: random.randrange(len(changed))] if random.random() < 0.1 else changed)
        try:
            read_header(path)
        except CheckpointError:
            continue
        accepted += 1
        assert library_accepts(path)
    assert accepted > 0


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), inner)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=3))
@settings(max_examples=300, deadline=None)
def test_any_json_header_is_read_or_a_typed_error(tmp_path_factory, header):
    path = write(tmp_path_factory.mktemp("any") / "model.safetensors", header)
    with suppress(CheckpointError):
        read_header(path)
