"""All blocks of a model in one native call, where each is native as a whole and nobody looks in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from minicpm.cache import Cache
from minicpm.layers.block import Block
from minicpm.layers.native_block import NativeAttention, NativeMLP
from minicpm.layers.native_neurons import NativeSparseMLP
from minicpm.layers.step import Step
from minicpm.ops.native import required
from minicpm.ops.native.runtime import Runtime

Halves = tuple[NativeAttention, NativeMLP | NativeSparseMLP]


class NativeStack:
    """h after all blocks for h bfloat16 [T, D]; the halves are those that the blocks have made."""

    def __init__(self, halves: Sequence[Halves], hooks: Sequence[Any], runtime: Runtime) -> None:
        self._halves = halves
        self._hooks = hooks
        self._runtime = runtime
        # What knows the addresses of a cache, and for how many pages: a cache that grows moves.
        self._stacks: WeakKeyDictionary[Cache, tuple[int, Any]] = WeakKeyDictionary()
        self._reads: WeakKeyDictionary[Cache, bool] = WeakKeyDictionary()

    @classmethod
    def of(cls, blocks: nn.ModuleList, runtime: Runtime) -> NativeStack | None:
        """For these blocks; None when one of them is not native as a whole."""
        halves = []
        for block in blocks:
            mixer, mlp = block.native_halves if isinstance(block, Block) else (None, None)
            if mixer is None or mlp is None:
                return None
            halves.append((mixer, mlp))
        hooks = [hook for part in blocks.modules() for hook in (part._forward_hooks, part._forward_pre_hooks)]
        return cls(halves, hooks, runtime)

    @property
    def watched(self) -> bool:
        """Whether a hook asks for the call of some module."""
        return any(self._hooks)

    def reads(self, cache: Cache) -> bool:
        """Whether a cache keeps all layers in pages of the kernels."""
        if cache not in self._reads:
            self._reads[cache] = all(mixer.reads(cache) for mixer, _ in self._halves)
        return self._reads[cache]

    def __call__(self, h: Tensor, step: Step, rows: Tensor | None) -> Tensor:
        """h [T, D], which is written over, or its `rows` [R, D], after all blocks."""
        assert step.cache is not None
        assert step.native is not None
        stack = self._of(step.cache)
        stack.run(self._runtime.pool, self._runtime.scratch, h.data_ptr(), step.native.handle)
        wanted = h if rows is None else h[rows]
        self._halves[-1][1](wanted)
        return wanted

    def _of(self, cache: Cache) -> Any:
        """All halves but the last one, for only wanted rows need that."""
        pages, stack = self._stacks.get(cache, (0, None))
        if pages != cache.total_pages:
            native = required()
            stack = native.Stack()
            for mixer, mlp in self._halves:
                mixer.append_to(stack, cache)
                if mlp is not self._halves[-1][1]:
                    mlp.append_to(stack)
            self._stacks[cache] = (cache.total_pages, stack)
        return stack

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None  # hooks are those of the modules that were copied from
