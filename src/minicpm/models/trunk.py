"""What every model of the family shares: embedding, blocks and final norm over packed tokens."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from minicpm.cache import Batch
from minicpm.config import ModelConfig
from minicpm.layers.block import Block
from minicpm.layers.lora import Adapters
from minicpm.layers.native_stack import NativeStack
from minicpm.layers.norm import RMSNorm
from minicpm.layers.step import Step
from minicpm.ops.backend import TORCH, Backend, choose_backend
from minicpm.ops.native.memory import give_back
from minicpm.ops.rows import pad_rows, row_multiple


class Hidden(NamedTuple):
    """What a forward gives a draft: hidden states [R, D] after the final norm, features [T, D] of layers."""

    last: Tensor
    features: tuple[Tensor, ...]


class Stack(nn.Module):
    """The part published checkpoints call `model.`, of blocks of a given class; the trunk drives it."""

    def __init__(self, config: ModelConfig, block: type[Block] = Block) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab, config.hidden)
        self.layers = nn.ModuleList(block(config, i) for i in range(len(config.layers)))
        self.norm = RMSNorm(config.hidden, config.norm_eps)


class Trunk(nn.Module):
    """Token ids to hidden states; submodule names are the published checkpoints'.

    Unprepared it calls every projection as a module and trains; `prepare` fuses them for inference.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._drive(config, Stack(config))

    @classmethod
    def over(cls, config: ModelConfig, stack: nn.Module, **heads: nn.Module) -> Self:
        """One that drives modules belonging to another: all that a `Stack` has, and heads by their names."""
        trunk = cls.__new__(cls)
        nn.Module.__init__(trunk)
        trunk._drive(config, stack)
        for name, head in heads.items():
            trunk.add_module(name, head)
        return trunk

    def _drive(self, config: ModelConfig, stack: nn.Module) -> None:
        self.config = config
        self.backend = TORCH
        self.adapters = Adapters()
        self.prepared = False
        self._rows = 1  # rows per product are rounded up to a multiple of this
        self._stack: NativeStack | None = None
        self.model = cast(Stack, stack)

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the weights that are not packed."""
        return self.model.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.norm.weight.device

    def forward(self, batch: Batch) -> Tensor:
        """Hidden states [R, D] of the rows wanted, after the final norm; extends the batch's cache."""
        return self.forward_with_features(batch, ()).last

    def forward_with_features(self, batch: Batch, layers: Sequence[int]) -> Hidden:
        """The same, and the residual stream [T, D] that enters each of `layers`, in their order."""
        step = self._step(batch)
        if not layers and (stack := self._whole(step)) is not None:
            h, entering = stack(self._entry(batch).clone(), step, batch.rows), {}
        else:
            h, entering = self._by_block(batch, step, layers)
        if batch.cache is not None:
            batch.cache.commit(batch.segments)
        features = tuple(entering[index][: len(batch.ids)] for index in layers)
        return Hidden(self.model.norm(h[: batch.wanted], self.backend), features)

    def _entry(self, batch: Batch) -> Tensor:
        return self.embed(batch.ids) if batch.embedded is None else batch.embedded

    def _whole(self, step: Step) -> NativeStack | None:
        """What does all blocks in one call, unless somebody has a part in them that it does not know."""
        stack = self._stack
        if stack is None or step.native is None or step.cache is None or stack.watched:
            return None
        if not stack.reads(step.cache):
            return None
        adapted = self.adapters.names or any(segment.adapter is not None for segment in step.segments)
        return None if adapted else stack

    def _by_block(self, batch: Batch, step: Step, layers: Sequence[int]) -> tuple[Tensor, dict[int, Tensor]]:
        """The wanted rows after all blocks, and what enters some of them."""
        with self.adapters.routed(batch.segments, batch.ids.device):
            h = pad_rows(self._entry(batch), self._rows)
            *earlier, last = self.model.layers
            entering: dict[int, Tensor] = {}
            for index, block in enumerate(earlier):
                entering |= {index: h} if index in layers else {}
                h = block(h, step)
            entering |= {len(earlier): h}
            return self._last(last, h, step, self._padded(batch.rows)), entering

    def embed(self, ids: Tensor) -> Tensor:
        """What token ids [T] enter the first layer as, [T, D]."""
        return self.model.embed_tokens(ids) * self.config.embed_scale

    def prepare(self, backend: str | Backend = "auto", *, threads: int | None = None) -> None:
        """Choose operators and fuse projections; from here on for inference only.

        `threads` is for a native backend chosen here: one per physical core unless said.
        """
        if isinstance(backend, str):
            backend = choose_backend(backend, dtype=self.dtype, device=self.device, threads=threads)
        self.backend = backend
        self.prepared = True
        self.requires_grad_(False)
        self._rows = row_multiple(self.dtype, self.device)
        for block in self.model.layers:
            block.prepare(self.backend)
            if self.backend.runtime is not None:  # or weights would be held twice by the last block
                give_back()
        self.restack()

    def restack(self) -> None:
        """Make anew what does all blocks in one call, as is due when a block has changed how it is run."""
        runtime = self.backend.runtime
        self._stack = None if runtime is None else NativeStack.of(self.model.layers, runtime)

    @property
    def unused(self) -> frozenset[str]:
        """Names of tensors that files of this model may carry and that it does not need."""
        return frozenset({"lm_head.weight"} if self.config.tied else ())

    def published_state(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight under its published name, prepared or not."""
        yield from self.state_dict().items()

    def _padded(self, rows: Tensor | None) -> Tensor | None:
        """The rows wanted, some of them twice so that their number is one that products are made with."""
        return None if rows is None else pad(rows, (0, -len(rows) % self._rows))

    def _last(self, block: nn.Module, h: Tensor, step: Step, rows: Tensor | None) -> Tensor:
        """The wanted rows after the last block; where rows differ in their adapter, it computes all of them.

        An adapter knows its rows by their place in the batch.
        """
        if rows is not None and self.adapters.mixed:
            return block(h, step)[rows]
        return block(h, step, rows)

    def _step(self, batch: Batch) -> Step:
        return Step.of(batch, self.config.rope, self.backend, causal=self.config.causal)
