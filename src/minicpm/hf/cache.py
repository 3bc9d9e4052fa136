"""transformers' cache interface over the paged cache of the decoder."""

from typing import Any

import torch
import transformers
from torch import Tensor

from minicpm.cache import PAGE, Cache, Segment, SequenceStore
from minicpm.errors import BadParameter
from minicpm.hf.packing import Packing
from minicpm.models.decoder import Decoder


class MiniCPMCache(transformers.Cache):
    """What a model remembers of the rows of a batch.

    It grows by itself, and rows share what they have in common. Lengths are counted as transformers counts
    them, padding included; padding takes no memory.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._cache: Cache | None = None
        self._rows: list[int] = []
        self._real: Tensor | None = None  # [B, C] bool
        self._withheld = False

    @classmethod
    def withheld(cls) -> "MiniCPMCache":
        """One that was not filled because gradients were recorded, and that says so when it is used."""
        cache = cls()
        cache._withheld = True
        return cache

    @property
    def real(self) -> Tensor | None:
        """Which of the tokens held are no padding, [B, C] bool; None at the start."""
        return self._real

    @property
    def lengths(self) -> list[int]:
        """Tokens held of each row, without padding."""
        assert self._cache is not None or not self._rows, "rows lie in a cache"
        return [self._cache.length(seq) for seq in self._rows] if self._cache is not None else []

    def require_usable(self, rows: int) -> None:
        """Raise BadParameter unless a batch of `rows` rows can continue what is held."""
        if self._withheld:
            raise BadParameter(
                "This cache is empty: it comes from a forward that recorded gradients, which "
                "remembers nothing unless asked to. Run that forward under torch.no_grad(), or with "
                "use_cache=True."
            )
        if self._real is not None and len(self._rows) != rows:
            raise BadParameter(
                f"The batch has {rows} rows and the cache holds {len(self._rows)}. Continue the "
                "batch it comes from, or repeat its rows with batch_repeat_interleave."
            )

    def begin(self, decoder: Decoder, packing: Packing) -> tuple[Cache, tuple[Segment, ...]]:
        """Room for the tokens of `packing`, and the segments that extend every row by its own."""
        cache = self._opened(decoder, packing)
        wanted = [(seq, count) for seq, count in zip(self._rows, packing.counts, strict=True) if count]
        short = sum(cache.pages_needed(seq, count) for seq, count in wanted) - cache.free_pages
        if short > 0:
            cache.grow(cache.total_pages + max(short, cache.total_pages))
        for seq, count in wanted:
            reserved = cache.reserve(seq, count)
            assert reserved, "the cache grew by what it lacked"
        return cache, tuple(Segment(seq, cache.length(seq), count) for seq, count in wanted)

    def finish(self, packing: Packing) -> None:
        """Count the tokens of `packing` after a forward has computed them."""
        new = packing.real
        self._real = new if self._real is None else torch.cat((self._real, new), dim=1)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held of a row, padding included."""
        return 0 if self._real is None else self._real.shape[1]

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1: there is no largest length."""
        return -1

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """The same under its older name."""
        return -1

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i goes on from row beam_idx[i]."""
        self._choose(beam_idx.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times in a row."""
        self._choose([row for row in range(len(self._rows)) for _ in range(repeats)])

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only the rows `indices`, in their order."""
        chosen = torch.arange(len(self._rows))[indices.cpu()]
        self._choose(chosen.tolist())

    def crop(self, max_length: int) -> None:
        """Drop tokens from the end: -max_length of them, or down to max_length when that is positive."""
        held = self.get_seq_length()
        keep = held + max_length if max_length <= 0 else min(max_length, held)
        if self._real is None or self._cache is None or keep == held:
            return
        for seq, count in zip(self._rows, self._real[:, : max(keep, 0)].sum(dim=1).tolist(), strict=True):
            if self._cache.reachable(seq, count) < count:
                raise BadParameter(
                    f"This model cannot take back its last {held - keep} tokens: layers with a running state "
                    "only go back to where they kept it. Decode without assistance or speculation."
                )
            self._cache.rewind(seq, count)
        self._real = self._real[:, : max(keep, 0)]

    def reset(self) -> None:
        """Forget everything."""
        for seq in self._rows:
            assert self._cache is not None, "rows lie in a cache"
            self._cache.close(seq)
        self._rows, self._real, self._withheld = [], None, False

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Refused: the decoder writes its own rows."""
        raise BadParameter("A MiniCPMCache is filled by the model it belongs to, and by no other.")

    @property
    def is_compileable(self) -> bool:
        """False: lengths differ from row to row."""
        return False

    @property
    def is_initialized(self) -> bool:
        """True once it holds something."""
        return self._real is not None

    @property
    def is_croppable(self) -> bool:
        """True when every layer can take tokens back one by one."""
        return self._cache is None or not any(
            isinstance(store, SequenceStore) for store in self._cache.stores
        )

    @property
    def is_linear(self) -> list[bool]:
        """False for every layer: whatever a layer keeps, a forward is given only the tokens not held."""
        return [False] * len(self)

    @property
    def batch_size(self) -> int:
        """Rows held, -1 at the start."""
        return len(self._rows) or -1

    def __len__(self) -> int:
        """Layers, 0 at the start."""
        return 0 if self._cache is None else len(self._cache.stores)

    def __repr__(self) -> str:
        return f"MiniCPMCache(rows={len(self._rows)}, tokens={self.get_seq_length()})"

    def _opened(self, decoder: Decoder, packing: Packing) -> Cache:
        if self._cache is None:
            self._cache = decoder.new_cache(sum(-(-count // PAGE) for count in packing.counts))
        if self._real is None:  # also after a first forward that failed
            for seq in self._rows:
                self._cache.close(seq)
            self._rows = [self._cache.open() for _ in packing.counts]
        return self._cache

    def _choose(self, rows: list[int]) -> None:
        if self._cache is None or self._real is None or rows == list(range(len(self._rows))):
            return
        chosen = [self._cache.fork(self._rows[row], self._cache.length(self._rows[row])) for row in rows]
        for seq in self._rows:
            self._cache.close(seq)
        self._rows = chosen
        self._real = self._real[torch.tensor(rows, device=self._real.device)]
