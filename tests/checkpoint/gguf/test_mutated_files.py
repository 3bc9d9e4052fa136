"""Whatever happens to a sound GGUF file, reading it gives a model file or an error of ours, and soon."""

import random
import struct
import time
from collections.abc import Callable

import pytest

from minicpm.checkpoint.gguf.decoding import decode_blocks, read_rows
from minicpm.checkpoint.gguf.reading import read_gguf
from minicpm.checkpoint.gguf.types import BLOCK_TYPES
from minicpm.errors import MiniCPMError

NUMBERS = [0, 1, 2, 3, 7, 8, 9, 13, 31, 32, 33, 63, 64, 65, 255, 256, 65_535, 100_000, 2**20, 2**24, 2**26]
NUMBERS += [2**31, 2**32 - 1, 2**32, 2**40, 2**60, 2**62 + 1, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1]
# By the numbers of the format, as `struct` names them.
KINDS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
HANG_S = 5

Fields = list[bytes]
Mutation = Callable[[random.Random, Fields, Fields], Fields]


def flip(rng: random.Random, fields: Fields, _: Fields) -> Fields:
    """A few bytes become others."""
    whole = bytearray(b"".join(fields))
    for _ in range(rng.randint(1, 8)):
        whole[rng.randrange(len(whole))] = rng.randrange(256)
    return [bytes(whole)]


def renumber(rng: random.Random, fields: Fields, _: Fields) -> Fields:
    """A number of 4 or 8 bytes becomes a notable one, most often where a field has its length or kind."""
    at = rng.randrange(len(fields))
    data = bytearray(fields[at])
    size = rng.choice((4, 8))
    place = rng.choice((0, rng.randrange(len(data)), max(0, len(data) - size))) if data else 0
    number = (rng.choice(NUMBERS) + rng.choice((0, 0, -1, 1))) % 2 ** (8 * size)
    data[place : place + size] = number.to_bytes(size, "little")
    return [*fields[:at], bytes(data), *fields[at + 1 :]]


def cut(rng: random.Random, fields: Fields, _: Fields) -> Fields:
    """The end is missing."""
    whole = b"".join(fields)
    return [whole[: rng.randrange(len(whole) + 1)]]


def splice(rng: random.Random, fields: Fields, other: Fields) -> Fields:
    """The rest is that of another file, from a field or from a byte on."""
    if rng.random() < 0.5:
        return fields[: rng.randrange(len(fields) + 1)] + other[rng.randrange(len(other)) :]
    one, two = b"".join(fields), b"".join(other)
    return [one[: rng.randrange(len(one) + 1)] + two[rng.randrange(len(two) + 1) :]]


def drop(rng: random.Random, fields: Fields, _: Fields) -> Fields:
    """A field is missing."""
    at = rng.randrange(len(fields))
    return fields[:at] + fields[at + 1 :]


def repeat(rng: random.Random, fields: Fields, _: Fields) -> Fields:
    """A field is there again, elsewhere."""
    at = rng.randrange(len(fields) + 1)
    return [*fields[:at], rng.choice(fields), *fields[at:]]


def insert(rng: random.Random, fields: Fields, _: Fields) -> Fields:
    """Bytes stand where none should."""
    whole = b"".join(fields)
    at = rng.randrange(len(whole) + 1)
    return [whole[:at] + rng.randbytes(rng.randint(1, 40)) + whole[at:]]


MUTATIONS: list[Mutation] = [flip, renumber, renumber, renumber, cut, splice, drop, repeat, insert]


@pytest.fixture
def seeds(draft) -> list[Fields]:
    """A little file, one with every kind of value, and one with every type of weights."""
    kinds = type(draft)()
    for kind, code in KINDS.items():
        kinds.pairs.append(draft.pair(f"one.{kind}", kind, struct.pack(f"<{code}", 1)))
        kinds.pairs.append(draft.array(f"two.{kind}", kind, 2, struct.pack(f"<2{code}", 1, 0)))
    kinds.pairs.append(draft.pair("general.alignment", 4, draft.u32(32)))
    types = type(draft)(tensors=[], data=b"")
    for block in BLOCK_TYPES.values():
        types.tensors.append(draft.tensor(f"blk.{block.name}", [256, 3, 1], block.number, len(types.data)))
        types.data += random.Random(block.number).randbytes(3 * block.row_bytes(256))
        types.data += bytes(-len(types.data) % 32)
    return [draft.fields(), kinds.fields(), types.fields()]


def survives(number: int, seeds: list[Fields], path) -> bool:
    """Whether the mutated file of this number is still read."""
    rng = random.Random(number)
    fields = list(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 3))):
        fields = rng.choice(MUTATIONS)(rng, fields, rng.choice(seeds)) or [b""]
        fields = [field for field in fields if field] or [b"GGUF"]
    path.write_bytes(b"".join(fields))
    try:
        for tensor in read_gguf(path).tensors.values():
            values = decode_blocks(tensor.type, read_rows(tensor))
            assert values.numel() * tensor.type.nbytes == tensor.nbytes * tensor.type.block
    except MiniCPMError:
        return False
    return True


def run(numbers: range, seeds: list[Fields], path) -> None:
    read = 0
    for number in numbers:
        start = time.perf_counter()
        try:
            read += survives(number, seeds, path)
        except Exception as error:
            error.add_note(f"mutated file {number}")
            raise
        took = time.perf_counter() - start
        assert took < HANG_S, f"mutated file {number} took {took:.1f} s"
    # Were none read, or all, the mutations would test little.
    assert 0.02 < read / len(numbers) < 0.9


def test_3_000_mutated_files_are_read_or_refused(seeds, tmp_path):
    run(range(3_000), seeds, tmp_path / "mutated.gguf")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("part", range(20))
def test_200_000_mutated_files_are_read_or_refused(part, seeds, tmp_path):
    run(range(part * 10_000, (part + 1) * 10_000), seeds, tmp_path / "mutated.gguf")
