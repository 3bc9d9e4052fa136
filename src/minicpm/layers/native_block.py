"""The halves of a block as one native call each, where the kernels can do all of what the half does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from minicpm.cache import BlockedStore, Cache
from minicpm.config import FATReLU, InfLLM, SiLU
from minicpm.config.sparse import chosen_blocks, dense_positions, local_blocks
from minicpm.layers.attention import Attention
from minicpm.layers.mlp import MLP
from minicpm.layers.native_linear import NativeLinear, is_native
from minicpm.layers.norm import RMSNorm
from minicpm.layers.step import Step
from minicpm.ops.native import required
from minicpm.ops.native.matrix import BLOCK, NativeMatrix
from minicpm.ops.native.runtime import Runtime

_SWIGLU, _FATRELU = 3, 4
_LANES = 16


class NativeMLP:
    """h += s * mlp(norm(h)) for h bfloat16 [T, D], in place."""

    def __init__(self, norm: RMSNorm, mlp: MLP, residual_scale: float, runtime: Runtime) -> None:
        gate_up, down = mlp.fused, mlp.down_proj
        assert isinstance(gate_up, NativeMatrix), "can_mlp was not asked"
        assert isinstance(down, NativeLinear), "can_mlp was not asked"
        act, gain = mlp.config.act, _gain(norm)  # copied by what is made here
        self.runtime = runtime
        self.handle: Any = required().Mlp(
            norm=gain.data_ptr(),
            eps=norm.eps,
            gate_up=gate_up.handle,
            down=down.matrix.handle,
            act=_FATRELU if isinstance(act, FATReLU) else _SWIGLU,
            threshold=act.threshold if isinstance(act, FATReLU) else 0.0,
            residual_scale=residual_scale,
        )

    def append_to(self, stack: Any) -> None:
        """Let a native stack do this next."""
        stack.feed(self.handle)

    def __call__(self, h: Tensor) -> None:
        """Adds to h."""
        self.handle.run(self.runtime.pool, self.runtime.scratch, h.data_ptr(), len(h))

    def __deepcopy__(self, memo: dict[int, Any]) -> NativeMLP:
        return self


class NativeAttention:
    """h += s * attention(norm(h)) for h bfloat16 [T, D], in place; extends the layer's store."""

    def __init__(self, norm: RMSNorm, attention: Attention, residual_scale: float, runtime: Runtime) -> None:
        mixer, output = attention.mixer, attention.o_proj
        assert isinstance(attention.fused, NativeMatrix), "can_attention was not asked"
        assert isinstance(output, NativeLinear), "can_attention was not asked"
        gain = _gain(norm)  # copied by what is made here
        self._runtime = runtime
        self._layer = attention.layer
        self._attention = required().AttentionLayer(
            norm=gain.data_ptr(),
            eps=norm.eps,
            heads=mixer.heads,
            kv_heads=mixer.kv_heads,
            width=mixer.head_dim,
            rotary=mixer.rotary,
            qkv=attention.fused.handle,
            output=output.matrix.handle,
            gate=attention.o_gate.matrix.handle if mixer.gated else None,
            rule=_rule(attention.infllm) if attention.infllm is not None else None,
            residual_scale=residual_scale,
        )

    def __call__(self, h: Tensor, step: Step) -> None:
        """Adds to h."""
        assert step.cache is not None
        assert step.native is not None
        pool, scratch = self._runtime.pool, self._runtime.scratch
        store = self._store(step.cache)
        self._attention.run(
            pool, scratch, h.data_ptr(), step.native.handle, store.handle, store.compressed_address
        )

    def reads(self, cache: Cache) -> bool:
        """Whether a cache keeps this layer in pages of the kernels; one of another dtype does not."""
        return isinstance(cache.stores[self._layer], BlockedStore)

    def append_to(self, stack: Any, cache: Cache) -> None:
        """Let a native stack do this next, on what this layer remembers in a cache."""
        store = self._store(cache)
        stack.attend(self._attention, store.handle, store.compressed_address)

    def _store(self, cache: Cache) -> BlockedStore:
        store = cache.stores[self._layer]
        assert isinstance(store, BlockedStore), (
            f"native layers need a BlockedStore, not {type(store).__name__}"
        )
        return store

    def __deepcopy__(self, memo: dict[int, Any]) -> NativeAttention:
        return self


def can_mlp(mlp: nn.Module) -> bool:
    """Whether the kernels do all that this feed-forward does, and nobody watches it from a hook."""
    if not isinstance(mlp, MLP) or not isinstance(mlp.fused, NativeMatrix) or _hooked(mlp, mlp.down_proj):
        return False
    plain = is_native(mlp.gate_proj, mlp.up_proj, mlp.down_proj) and isinstance(
        mlp.config.act, SiLU | FATReLU
    )
    return plain and mlp.config.intermediate % BLOCK == 0


def can_attention(attention: nn.Module) -> bool:
    """Whether the kernels do all that this mixer does, and nobody watches it from a hook."""
    if not isinstance(attention, Attention) or not isinstance(attention.fused, NativeMatrix):
        return False
    if _hooked(attention, attention.o_proj):
        return False
    projections = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    if attention.mixer.gated:
        projections.append(attention.o_gate)
    return is_native(*projections) and attention.mixer.head_dim % _LANES == 0


def _hooked(*modules: nn.Module) -> bool:
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def _rule(infllm: InfLLM) -> Any:
    sparse = infllm.sparse
    return required().SparseRule(
        kernel_size=sparse.kernel_size,
        kernel_stride=sparse.kernel_stride,
        init_blocks=sparse.init_blocks,
        local_blocks=local_blocks(sparse),
        chosen_blocks=chosen_blocks(sparse),
        dense=dense_positions(sparse),
    )


def _gain(norm: RMSNorm) -> Tensor:
    return norm.weight.detach().to(torch.float32).contiguous()
