"""A cache in pages for the compiled operators, its memory poisoned until it is written."""

from importlib import import_module

import pytest
import torch

from minicpm.config.sparse import chosen_blocks, dense_positions, local_blocks
from minicpm.ops import native as built

PAGE = 64


def instruction_sets():
    return ["none"] if built.absence() else import_module("minicpm.ops._native").instruction_sets()


@pytest.fixture(params=instruction_sets())
def native(request):
    """The compiled module, with each instruction set in turn."""
    if reason := built.absence():
        pytest.skip(f"{reason}; install from source with a C++ compiler to run this")
    module = import_module("minicpm.ops._native")
    module.choose(request.param)
    yield module
    module.choose(module.instruction_sets()[0])


class PagedCache:
    """Keys and values of one layer and the operators on them; tensors that come and go are float32."""

    def __init__(
        self, native, pages, kv_heads, width, *, int8=False, sparse=None, unrotated=False, threads=2
    ):
        self.native = native
        self.kv_heads, self.width, self.int8 = kv_heads, width, int8
        self.pool, self.scratch = native.Pool(threads, False), native.Scratch()
        count = 3 if unrotated else 2
        shape = (pages, kv_heads, PAGE, width)
        if int8:
            self.planes = [torch.full(shape, 113, dtype=torch.int8) for _ in range(count)]
            self.scales = [torch.full((pages, kv_heads, PAGE), torch.nan) for _ in range(count)]
        else:
            self.planes = [torch.full(shape, torch.nan, dtype=torch.bfloat16) for _ in range(count)]
            self.scales = []
        k, v, *kept = [plane.data_ptr() for plane in self.planes]
        k_scales, v_scales, *kept_scales = [scale.data_ptr() for scale in self.scales] or [0, 0]
        options = {"k_scales": k_scales, "v_scales": v_scales}
        if unrotated:
            options |= {"unrotated": kept[0], "unrotated_scales": kept_scales[0] if int8 else 0}
        self.kv = native.KvPages(int(int8), kv_heads, width, k, v, **options)
        if sparse is not None:
            self.slots = PAGE // sparse.kernel_stride
            self.before = sparse.kernel_size // sparse.kernel_stride - 1
            self.budget = chosen_blocks(sparse)
            self.keys = torch.full(
                (pages, kv_heads, width // 2, self.slots, 2), torch.nan, dtype=torch.bfloat16
            )
            self.compressed = native.Compressed(
                self.keys.data_ptr(),
                kernel_size=sparse.kernel_size,
                kernel_stride=sparse.kernel_stride,
                init_blocks=sparse.init_blocks,
                local_blocks=local_blocks(sparse),
                chosen_blocks=self.budget,
                dense=dense_positions(sparse),
            )

    def segments(self, tables, starts, counts):
        """Segments over page tables, int32 tensors that must outlive them."""
        return self.native.Segments(list(starts), list(counts), [table.data_ptr() for table in tables])

    def write(self, tables, starts, k, v, unrotated=None):
        """Store k and v, a [T, Hk, d] for each sequence from its start on, and compress what is new."""
        segments = self.segments(tables, starts, [len(x) for x in k])
        k, v = torch.cat(k).contiguous(), torch.cat(v).contiguous()
        kept = torch.cat(unrotated).contiguous() if unrotated is not None else k
        addresses = [x.data_ptr() for x in (k, v, kept)]
        self.native.write(self.pool, self.kv, segments, *addresses, self.kv_heads * self.width)
        if hasattr(self, "compressed"):
            self.native.compress(self.pool, self.kv, self.compressed, segments)

    def attend(self, tables, starts, q):
        """Attention of q, a [T, H, d] for each sequence, each at its start; as many results."""
        segments, packed, out = self._packed(tables, starts, q)
        stride = packed[0].numel()
        self.native.attend(
            self.pool, self.scratch, self.kv, segments, packed.shape[1],
            packed.data_ptr(), stride, out.data_ptr(), stride,
        )  # fmt: skip
        return out.split([len(x) for x in q])

    def attend_sparse(self, tables, starts, q, choosing=None):
        """As `attend`, and the blocks [T, Hk, budget] of each sequence."""
        segments, packed, out = self._packed(tables, starts, q)
        choosing = packed if choosing is None else torch.cat(choosing).contiguous()
        chosen = torch.full((len(packed), self.kv_heads, self.budget), -2, dtype=torch.int32)
        stride = packed[0].numel()
        self.native.attend_sparse(
            self.pool, self.scratch, self.kv, self.compressed, segments, packed.shape[1],
            packed.data_ptr(), choosing.data_ptr(), stride, out.data_ptr(), stride, chosen.data_ptr(),
        )  # fmt: skip
        counts = [len(x) for x in q]
        return list(zip(out.split(counts), chosen.split(counts), strict=True))

    def stored(self, plane, table, length):
        """What a plane (0 keys, 1 values, 2 unrotated keys) holds of a sequence, [length, Hk, d]."""
        pages = self.planes[plane][table.long()]
        count, heads = pages.shape[:2]
        if self.int8:
            if plane != 1:  # [4, d, 16]
                pages = pages.reshape(count, heads, 4, self.width, 16).transpose(3, 4).reshape(pages.shape)
            pages = pages.float() * self.scales[plane][table.long()][..., None]
        elif plane != 1:  # [4, d / 2, 16, 2]
            pages = pages.reshape(count, heads, 4, self.width // 2, 16, 2).transpose(3, 4)
        else:  # [32, d, 2]
            pages = pages.reshape(count, heads, 32, self.width, 2).transpose(3, 4)
        rows = pages.reshape(count, heads, PAGE, self.width).transpose(1, 2).flatten(0, 1)
        return rows[:length].float()

    def stored_compressed(self, table, length, stride):
        """Compressed keys [J, Hk, d] of a sequence."""
        pages = self.keys[table.long()].permute(0, 3, 1, 2, 4).flatten(3).flatten(0, 1)
        return pages[self.before : length // stride].float()

    def _packed(self, tables, starts, q):
        packed = torch.cat(q).contiguous()
        segments = self.segments(tables, starts, [len(x) for x in q])
        return segments, packed, torch.full_like(packed, torch.nan)


@pytest.fixture
def paged(native):
    """Makes a PagedCache of given shape."""

    def make(*args, **options):
        return PagedCache(native, *args, **options)

    return make


def scattered(lengths, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    counts = [-(-length // PAGE) for length in lengths]
    return [
        part.int().contiguous() for part in torch.randperm(sum(counts), generator=generator).split(counts)
    ]


@pytest.fixture
def tables():
    """Page tables for sequences of given lengths, no two pages neighbours but by chance; and their number."""

    def make(lengths, **options):
        parts = scattered(lengths, **options)
        return parts, sum(len(part) for part in parts)

    return make


@pytest.fixture
def normal():
    """Tensors of normal numbers."""

    def make(*shape, seed=0):
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    return make
