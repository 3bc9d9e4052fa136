"""The worker of transformers: LlamaForCausalLM in bfloat16 with sdpa and its dynamic cache."""

from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from transformers import DynamicCache, LlamaForCausalLM

from rivals.folded import llama
from rivals.weights import Raw
from rivals.worker import Unsupported, main


class Loaded:
    """A model and a cache of equally long sequences."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self._model = model
        self._held: tuple[int, int] | None = None

    def begin(self, context: int, _room: int, streams: int) -> None:
        """The cache of last time, cut, when it is the same; random keys and values otherwise."""
        if context == 0 or self._held != (context, streams):
            self._cache = self._filled(context, streams)
            self._held = (context, streams)
        elif (surplus := self._cache.get_seq_length() - context) > 0:
            self._cache.crop(-surplus)

    def prefill(self, ids: Sequence[int]) -> None:
        """In one forward."""
        self._feed(torch.tensor(ids)[None])

    def step(self, ids: Sequence[int]) -> None:
        """All sequences in one forward."""
        self._feed(torch.tensor(ids)[:, None])

    def logits(self) -> list[float]:
        """Of the first sequence."""
        return self._logits[0, -1].tolist()

    def close(self) -> None:
        """Forget the model."""
        del self._model

    def _feed(self, ids: torch.Tensor) -> None:
        out = self._model(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._logits = out.logits

    def _filled(self, context: int, streams: int) -> DynamicCache:
        config = self._model.config
        cache = DynamicCache(config=config)
        shape = (streams, config.num_key_value_heads, context, config.head_dim)
        for layer in range(config.num_hidden_layers if context else 0):
            k, v = (torch.randn(shape, dtype=self._model.dtype) for _ in range(2))
            cache.update(k, v, layer)
        return cache


class Transformers:
    """transformers on PyTorch."""

    def __init__(self, threads: int, _folder: Path) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)

    def versions(self) -> dict[str, str]:
        """Of the library; PyTorch is ours too."""
        return {"transformers": transformers.__version__}

    def open(self, raw: Raw, weights: str, *, sparse: bool) -> Loaded:
        """bf16 only; it has no sparse attention, and the dense one is what it is compared with."""
        del sparse
        if weights != "bf16":
            raise Unsupported(f"no {weights} weights on a CPU without further packages")
        return Loaded(llama(raw))


if __name__ == "__main__":
    main(Transformers)
