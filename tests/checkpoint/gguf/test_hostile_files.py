"""A GGUF file that lies ends in an error of ours, at once and without memory, whatever it claims."""

import time
import tracemalloc
from collections.abc import Callable

import pytest

from minicpm.checkpoint.gguf.decoding import decode_blocks, read_rows
from minicpm.checkpoint.gguf.reading import read_gguf
from minicpm.errors import CheckpointError, MalformedFile, TruncatedFile

TIME_S, MEMORY = 0.05, 64 << 20

NESTED = (9).to_bytes(4, "little") + (1).to_bytes(8, "little")

Change = Callable[..., None]
CASES: dict[str, tuple[type[CheckpointError], str, Change]] = {}


def refused(error: type[CheckpointError], words: str) -> Callable[[Change], Change]:
    """Register a change of the sound draft, and what must be said of the file."""

    def register(change: Change) -> Change:
        CASES[change.__name__.replace("_", " ")] = error, words, change
        return change

    return register


def value(name: str, error: type[CheckpointError], words: str, **fields: object) -> None:
    """Register a draft with plain fields replaced."""
    CASES[name] = error, words, lambda draft: [setattr(draft, key, new) for key, new in fields.items()]


def pairs(name: str, error: type[CheckpointError], words: str, make: Callable[..., bytes]) -> None:
    """Register a draft with one more metadata pair."""
    CASES[name] = error, words, lambda draft: draft.pairs.append(make(draft))


def tensors(name: str, error: type[CheckpointError], words: str, make: Callable[..., bytes]) -> None:
    """Register a draft with another second tensor."""

    def change(draft):
        draft.tensors[1] = make(draft)

    CASES[name] = error, words, change


value("another magic", MalformedFile, "GGML.*at byte 0", magic=b"GGML")
value("magic backwards", MalformedFile, "FUGG", magic=b"FUGG")
value("safetensors", MalformedFile, "at byte 0", magic=b"\x40\0\0\0")
value("version 0", MalformedFile, "version 0.*at byte 4", version=0)
value("version 1", MalformedFile, "version 1 .*2023.*at byte 4", version=1)
value("version 4", MalformedFile, "version 4", version=4)
value("big endian", MalformedFile, "big-endian", version=3 << 24)
value("2^60 tensors", MalformedFile, "1152921504606846976 tensors.*at byte 8", tensor_count=2**60)
value("2^64 - 1 tensors", MalformedFile, "18446744073709551615 tensors", tensor_count=2**64 - 1)
value("2^60 pairs", MalformedFile, "1152921504606846976 metadata pairs.*at byte 16", pair_count=2**60)
value("2^63 pairs", MalformedFile, "metadata pairs", pair_count=2**63)
value("100,001 pairs", MalformedFile, "100001 metadata pairs", pair_count=100_001)
value("90,000 pairs in a small file", TruncatedFile, "list of 90000", pair_count=90_000)
value("90,000 tensors in a small file", TruncatedFile, "list of 90000", tensor_count=90_000)
value("one pair too many", CheckpointError, "byte", pair_count=6)
value("one tensor too many", CheckpointError, "byte", tensor_count=3)
value("tensors read as pairs", CheckpointError, "byte", pair_count=7, tensor_count=0)
value("data one byte short", TruncatedFile, "'matrix' begins at byte", data=bytes(32 + 67))
value("no data", TruncatedFile, "2 of its tensors", data=b"")

pairs("key of 2^63 bytes", MalformedFile, "9223372036854775808 bytes", lambda d: d.text("k", 2**63))
pairs("key of 2^64 - 1 bytes", MalformedFile, "key a length", lambda d: d.text("k", 2**64 - 1))
pairs("key of 65,536 bytes", MalformedFile, "65535", lambda d: d.pair("k" * 65_536, 4, d.u32(1)))
pairs("empty key", MalformedFile, "without a name", lambda d: d.pair("", 4, d.u32(1)))
pairs("key twice", MalformedFile, "'minicpm.block_count' twice", lambda d: d.pairs[1])
pairs("key of broken UTF-8", MalformedFile, "not UTF-8", lambda d: d.pair(b"k\xff", 4, d.u32(1)))
pairs("string of 2^63 bytes", MalformedFile, "length", lambda d: d.pair("k", 8, d.text("", 2**63)))
pairs("string over 16 MiB", MalformedFile, "16777216", lambda d: d.pair("k", 8, d.text("", 2**24 + 1)))
pairs("string beyond the end", TruncatedFile, "ends at byte", lambda d: d.pair("k", 8, d.text("", 2**24)))
pairs("string of a surrogate", MalformedFile, "UTF-8", lambda d: d.pair("k", 8, d.text(b"\xed\xa0\x80")))
pairs("string of an overlong slash", MalformedFile, "UTF-8", lambda d: d.pair("k", 8, d.text(b"\xc0\xaf")))
pairs("array of 2^40 bytes", MalformedFile, "1099511627776", lambda d: d.array("k", 0, 2**40))
pairs("array of 2^40 strings", MalformedFile, "1099511627776", lambda d: d.array("k", 8, 2**40))
pairs("array of 2^61 numbers of 8 bytes", MalformedFile, "2305843", lambda d: d.array("k", 10, 2**61))
pairs("array of 2^64 - 1 numbers", MalformedFile, "array of 184467", lambda d: d.array("k", 12, 2**64 - 1))
pairs("array of 64 Mi and one", MalformedFile, "67108865", lambda d: d.array("k", 0, 2**26 + 1))
pairs("array beyond the end", TruncatedFile, "'k'.*needs 480000", lambda d: d.array("k", 10, 60_000))
pairs("strings beyond the end", TruncatedFile, "'k'.*needs 480000", lambda d: d.array("k", 8, 60_000))
pairs("array of arrays", MalformedFile, "array of arrays", lambda d: d.array("k", 9, 1, d.u32(4) + d.u64(0)))
pairs(
    "20,000 nested arrays",
    MalformedFile,
    "arrays",
    lambda d: d.array("k", 9, 1, 20_000 * (d.u32(9) + d.u64(1))),
)
pairs("unknown kind", MalformedFile, "unknown kind 13", lambda d: d.pair("k", 13, bytes(8)))
pairs("kind 2^32 - 1", MalformedFile, "unknown kind 4294967295", lambda d: d.pair("k", 2**32 - 1, b""))
pairs("array of an unknown kind", MalformedFile, "unknown kind 77", lambda d: d.array("k", 77, 1, bytes(8)))
pairs("truth of 2", MalformedFile, "holds 2 where", lambda d: d.pair("k", 7, b"\2"))
pairs("array with a truth of 7", MalformedFile, "holds 7", lambda d: d.array("k", 7, 3, b"\0\1\7"))
for number in (0, 3, 2**31, 2**32 - 1):
    pairs(
        f"alignment {number}", MalformedFile, f"alignment of {number},",
        lambda d, number=number: d.pair("general.alignment", 4, d.u32(number)),
    )  # fmt: skip
pairs("alignment in text", MalformedFile, "of '32'", lambda d: d.pair("general.alignment", 8, d.text("32")))
pairs("alignment as a truth", MalformedFile, "of True", lambda d: d.pair("general.alignment", 7, b"\1"))
pairs(
    "several alignments", MalformedFile, "alignment", lambda d: d.array("general.alignment", 4, 2, bytes(8))
)
pairs("escape sequence in a key", MalformedFile, r"\\x1b", lambda d: d.pair("\x1b[2J", 13, b""))

tensors("name of 2^63 bytes", MalformedFile, "name of a tensor", lambda d: d.text("t", 2**63))
tensors("name of 65 bytes", MalformedFile, "65 bytes", lambda d: d.tensor("t" * 65, [4], 0, 32))
tensors("empty name", MalformedFile, "without a name", lambda d: d.tensor("", [4], 0, 32))
tensors("name of broken UTF-8", MalformedFile, "UTF-8", lambda d: d.tensor(b"\xff", [4], 0, 32))
tensors("tensor twice", MalformedFile, "'norm' twice", lambda d: d.tensor("norm", [4], 0, 32))
tensors("no dimensions", MalformedFile, "'t' 0 dimensions", lambda d: d.tensor("t", [], 0, 32))
tensors("five dimensions", MalformedFile, "'t' 5 dim", lambda d: d.tensor("t", [1] * 5, 0, 32))
tensors("2^32 - 1 dimensions", MalformedFile, "dimensions", lambda d: d.text("t") + d.u32(2**32 - 1))
tensors("dimension of 0", MalformedFile, "empty shape", lambda d: d.tensor("t", [4, 0], 0, 32))
tensors("dimensions of 2^63", TruncatedFile, "takes", lambda d: d.tensor("t", [2**63, 2, 2**63], 0, 32))
tensors("dimensions that wrap to nothing", TruncatedFile, "'t'", lambda d: d.tensor("t", [2**32] * 2, 0, 32))
tensors("dimensions that wrap to 4", TruncatedFile, "'t'", lambda d: d.tensor("t", [2**62 + 1, 4], 0, 32))
tensors("rows cut through a block", MalformedFile, "rows of 33", lambda d: d.tensor("t", [33, 2], 8, 32))
tensors("rows cut through 256", MalformedFile, "hold 256", lambda d: d.tensor("t", [32, 2], 12, 32))
tensors("type 9999", MalformedFile, "unknown type 9999", lambda d: d.tensor("t", [32, 2], 9999, 32))
tensors("type IQ2_XS", CheckpointError, "'t' as IQ2_XS, which is not", lambda d: d.tensor("t", [256], 17, 32))
tensors("type that was removed", CheckpointError, "Q4_2", lambda d: d.tensor("t", [32], 4, 32))
tensors("same place", MalformedFile, "overlaps", lambda d: d.tensor("t", [32, 2], 8, 0))
tensors("place between alignments", MalformedFile, "multiple of 32", lambda d: d.tensor("t", [32, 2], 8, 33))
tensors("place of 2^63", TruncatedFile, "lie beyond", lambda d: d.tensor("t", [32, 2], 8, 2**63))
tensors("place that wraps to the start", TruncatedFile, "beyond", lambda d: d.tensor("t", [4], 0, 2**64 - 32))
tensors("place beyond the end", TruncatedFile, "beyond", lambda d: d.tensor("t", [32, 2], 8, 64))


@refused(MalformedFile, "overlaps another")
def tensor_into_the_next(draft):
    draft.tensors[0] = draft.tensor("norm", [9], 0, 0)


@refused(MalformedFile, "overlaps another")
def tensor_around_another(draft):
    draft.tensors = [draft.tensor("around", [64], 0, 0), draft.tensor("within", [4], 0, 32)]
    draft.data = bytes(256)


@refused(MalformedFile, "are left")
def arrays_of_64_Mi_together(draft):
    draft.pairs = [draft.array(f"{n}", 0, 2**25, bytes(2**25)) for n in range(2)] + [draft.array("k", 0, 1)]


def test_there_are_enough_cases():
    assert len(CASES) >= 60


@pytest.mark.parametrize("case", CASES)
def test_hostile_file_is_refused_at_once_and_without_memory(case, draft, tmp_path):
    error, words, change = CASES[case]
    change(draft)
    path = draft.write(tmp_path / "hostile.gguf")
    del draft, change
    took = [timed(path, error, words) for _ in range(2)]
    assert min(took) < TIME_S
    tracemalloc.start()
    with pytest.raises(error):
        read_gguf(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY


def timed(path, error, words):
    start = time.perf_counter()
    with pytest.raises(error) as caught:
        read_gguf(path)
    took = time.perf_counter() - start
    assert caught.type is error or error is CheckpointError
    caught.match(words)
    assert str(path) in str(caught.value)
    return took


def test_large_arrays_of_a_file_that_is_refused_are_never_in_memory(draft, tmp_path):
    draft.pairs = [draft.array("zeros", 7, 60 << 20)]
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as file:
        file.write(b"".join(draft.fields()[:5]))
        file.seek(60 << 20, 1)
        file.write(draft.tensors[0])
    tracemalloc.start()
    with pytest.raises(TruncatedFile):
        read_gguf(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_file_cut_anywhere_is_truncated(draft, tmp_path):
    whole = b"".join(draft.fields())
    path = tmp_path / "cut.gguf"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(TruncatedFile, match=f"{length}"):
            read_gguf(path)
    path.write_bytes(whole)
    for tensor in read_gguf(path).tensors.values():
        decode_blocks(tensor.type, read_rows(tensor))
