"""Builds GGUF files field by field, so that any field can be made wrong."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def text(value: str | bytes, length: int | None = None) -> bytes:
    """A string; its stated length can be another."""
    data = value.encode() if isinstance(value, str) else value
    return u64(len(data) if length is None else length) + data


def pair(key: str | bytes, kind: int, content: bytes) -> bytes:
    return text(key) + u32(kind) + content


def array(key: str, kind: int, count: int, content: bytes = b"") -> bytes:
    return pair(key, 9, u32(kind) + u64(count) + content)


def tensor(name: str | bytes, sizes: Sequence[int], type: int, place: int) -> bytes:
    """`sizes` as the format orders them, columns first."""
    return text(name) + u32(len(sizes)) + b"".join(map(u64, sizes)) + u32(type) + u64(place)


@dataclass
class Draft:
    """A sound little file, a float32 vector and a Q8_0 matrix; every field can be replaced."""

    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    pair_count: int | None = None
    pairs: list[bytes] = field(
        default_factory=lambda: [
            pair("general.architecture", 8, text("minicpm")),
            pair("minicpm.block_count", 4, u32(2)),
            pair("tokenizer.ggml.add_bos_token", 7, b"\1"),
            array("tokenizer.ggml.tokens", 8, 2, text("a") + text("b")),
            array("tokenizer.ggml.scores", 6, 2, struct.pack("<2f", 0.5, 1)),
        ]
    )
    tensors: list[bytes] = field(
        default_factory=lambda: [tensor("norm", [4], 0, 0), tensor("matrix", [32, 2], 8, 32)]
    )
    data: bytes = struct.pack("<4f", 1, 2, 3, 4) + bytes(16) + bytes(range(68))

    u32, u64, text = staticmethod(u32), staticmethod(u64), staticmethod(text)
    pair, array, tensor = staticmethod(pair), staticmethod(array), staticmethod(tensor)

    def fields(self) -> list[bytes]:
        """The file in pieces: head, pairs, tensors, padding, data."""
        tensors = len(self.tensors) if self.tensor_count is None else self.tensor_count
        pairs = len(self.pairs) if self.pair_count is None else self.pair_count
        head = [self.magic, u32(self.version), u64(tensors), u64(pairs), *self.pairs, *self.tensors]
        return [*head, bytes(-sum(map(len, head)) % 32), self.data]

    def write(self, path: Path) -> Path:
        path.write_bytes(b"".join(self.fields()))
        return path


@pytest.fixture
def draft() -> Draft:
    return Draft()
