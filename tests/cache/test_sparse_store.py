"""Compressed keys in pages are those of the sequence's keys, whatever was forked, rewound and fed again."""

import random

import pytest
import torch

from minicpm.cache import PAGE, Cache, Segment, SparseStore
from minicpm.config import GQA, InfLLM, SparseConfig
from minicpm.ops.sparse.choice import compress

CPU = torch.device("cpu")
HEADS, WIDTH = 2, 3
GEOMETRIES = [(32, 16), (8, 4), (64, 64), (128, 64), (16, 16), (3, 1), (192, 32)]
SHARED = pytest.mark.parametrize("use_nope", [False, True], ids=["rotated", "unrotated"])


def mixer_of(kernel=32, stride=16, use_nope=False):
    sparse = SparseConfig(kernel_size=kernel, kernel_stride=stride, use_nope=use_nope)
    return InfLLM(GQA(4, HEADS, WIDTH), sparse)


class Sequences:
    """A cache with one sparse store, beside the keys that each sequence should hold."""

    def __init__(self, mixer: InfLLM, pages: int) -> None:
        self.mixer = mixer
        self.store = SparseStore(pages, mixer, dtype=torch.float64, device=CPU)
        held = [self.store.k, self.store.v, self.store.compressed, self.store.unrotated]
        for tensor in held:
            if tensor is not None:
                tensor.fill_(torch.nan)
        self.cache = Cache([self.store], pages, device=CPU)
        self.keys: dict[int, torch.Tensor] = {}
        self._generator = torch.Generator().manual_seed(0)

    def open(self) -> int:
        seq = self.cache.open()
        self.keys[seq] = torch.zeros(0, HEADS, WIDTH, dtype=torch.float64)
        return seq

    def append(self, *counts: tuple[int, int]) -> None:
        assert all(self.cache.reserve(seq, n) for seq, n in counts)
        segments = [Segment(seq, self.cache.length(seq), n) for seq, n in counts]
        plan = self.cache.plan(segments)
        total = sum(n for _, n in counts)
        k = torch.randn(total, HEADS, WIDTH, dtype=torch.float64, generator=self._generator)
        self.store.write(plan.write, 2 * k if self.mixer.scores_unrotated else k, -k)
        if self.mixer.scores_unrotated:
            self.store.write_unrotated(plan.write, k)
        for segment, rows in zip(segments, plan.reads, strict=True):
            self.store.complete(rows, segment.start, lambda keys: compress(keys, self.mixer.sparse))
        for (seq, n), part, rows in zip(counts, k.split([n for _, n in counts]), plan.reads, strict=True):
            self.keys[seq] = torch.cat([self.keys[seq], part])
            found = self.store.read_compressed(rows)
            assert torch.equal(found, compress(self.keys[seq], self.mixer.sparse)), (
                f"sequence {seq} after {n}"
            )
        self.cache.commit(segments)

    def fork(self, seq: int, n: int) -> int:
        copy = self.cache.fork(seq, n)
        self.keys[copy] = self.keys[seq][:n]
        return copy

    def rewind(self, seq: int, n: int) -> None:
        assert self.cache.rewind(seq, n) == n
        self.keys[seq] = self.keys[seq][:n]

    def close(self, seq: int) -> None:
        self.cache.close(seq)
        del self.keys[seq]


@pytest.mark.parametrize(("kernel", "stride"), GEOMETRIES)
@SHARED
def test_whatever_happened_before_compressed_keys_are_those_of_the_sequence(kernel, stride, use_nope):
    generator = random.Random(kernel + stride)
    sequences = Sequences(mixer_of(kernel, stride, use_nope), pages=60)
    for _ in range(40):
        live = list(sequences.keys)
        seq = generator.choice(live) if live else sequences.open()
        length = sequences.cache.length(seq)
        match generator.choice(["append", "append", "append", "both", "rewind", "fork", "open", "close"]):
            case "append":
                sequences.append((seq, generator.choice([1, 2, stride, 15, 63, 64, 65, 130])))
            case "both":
                other = sequences.open()
                sequences.append((seq, generator.randint(1, 40)), (other, generator.randint(1, 140)))
            case "rewind":
                sequences.rewind(seq, generator.randint(0, length))
            case "fork":
                sequences.fork(seq, generator.randint(0, length))
            case "open":
                sequences.open()
            case "close":
                sequences.close(seq)
        while sequences.cache.free_pages < 20:
            sequences.close(next(iter(sequences.keys)))


@SHARED
@pytest.mark.parametrize("shared", [1, 15, 16, 31, 32, 63, 64, 65, 100])
def test_a_fork_and_its_parent_go_separate_ways_inside_a_window(shared, use_nope):
    sequences = Sequences(mixer_of(use_nope=use_nope), pages=12)
    parent = sequences.open()
    sequences.append((parent, 128))
    child = sequences.fork(parent, shared)
    sequences.append((child, 20), (parent, 20))
    sequences.rewind(parent, shared)
    sequences.append((parent, 50), (child, 1))


def test_a_sequence_on_scattered_pages():
    sequences = Sequences(mixer_of(), pages=12)
    one, two = sequences.open(), sequences.open()
    for _ in range(5):
        sequences.append((one, PAGE), (two, 40))
    rows = sequences.cache.plan([Segment(one, 320, 0)]).reads[0]
    assert not isinstance(rows, slice)


def test_contiguous_pages_are_read_without_a_copy():
    sequences = Sequences(mixer_of(), pages=4)
    seq = sequences.open()
    sequences.append((seq, 200))
    view = sequences.store.read_compressed(slice(0, 200))
    assert view.untyped_storage().data_ptr() == sequences.store.compressed.untyped_storage().data_ptr()


@SHARED
@pytest.mark.parametrize("stride", [1, 16, 64])
def test_a_store_takes_what_the_config_says(stride, use_nope):
    mixer = mixer_of(64, stride, use_nope)
    store = SparseStore(5, mixer, dtype=torch.bfloat16, device=CPU)
    assert store.nbytes == 5 * 2 * mixer.page_values


def test_a_sequence_shorter_than_a_window_has_no_compressed_keys():
    sequences = Sequences(mixer_of(), pages=1)
    seq = sequences.open()
    sequences.append((seq, 31))
    assert sequences.store.read_compressed(slice(0, 31)).shape == (0, HEADS, WIDTH)
    sequences.append((seq, 1))
    assert sequences.store.read_compressed(slice(0, 32)).shape == (1, HEADS, WIDTH)


@SHARED
def test_a_store_that_grew_holds_what_it_held(use_nope):
    sequences = Sequences(mixer_of(use_nope=use_nope), pages=3)
    seq = sequences.open()
    sequences.append((seq, 100))
    sequences.cache.grow(8)
    sequences.append((seq, 200))
    assert sequences.store.nbytes == 8 * 8 * sequences.mixer.page_values
