"""The worker of this package; `build` alone knows how a decoder comes to its weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from measure import matmul_rate, side_by_side
from torch import nn

from minicpm import __version__
from minicpm.bench.context import filled_cache, reset
from minicpm.bench.random_model import random_decoder
from minicpm.bench.weights import footprint
from minicpm.bench.work import decode_work
from minicpm.cache import Batch, Segment
from minicpm.checkpoint.rounded import rounded_parts
from minicpm.config import ModelConfig
from minicpm.config.sparse import with_sparse
from minicpm.layers.quant_embedding import QuantEmbedding
from minicpm.layers.quant_linear import QuantLinear
from minicpm.models.decoder import Decoder
from minicpm.models.registry import parse
from minicpm.quant.rounding import round_to
from rivals import weights as random_weights
from rivals.worker import Unsupported, main

# Tokens that one forward of a prompt takes.
CHUNK = 512


def build(raw: Mapping[str, Any], weights: str, *, sparse: bool) -> Decoder:
    """A prepared decoder with the shared random weights in a format; raises Unsupported."""
    if weights not in ("bf16", "int8", "int4", "ternary"):
        raise Unsupported(f"not a format of ours: {weights}")
    config = with_sparse(parse(raw), "on" if sparse else "off")
    if weights == "ternary":  # no rounding makes weights ternary; what they are changes no speed
        decoder = random_decoder(config, weights)
    else:
        decoder = _random_decoder(config, raw)
        _round(decoder, weights)
    decoder.prepare("native", threads=torch.get_num_threads())
    return decoder


def _round(decoder: Decoder, weights: str) -> None:
    """Hold matrices as loading the checkpoint with these weights would."""
    for name, bits in (rounded_parts(decoder, weights) if weights != "bf16" else {}).items():
        module = decoder.get_submodule(name)
        kind = QuantEmbedding if isinstance(module, nn.Embedding) else QuantLinear
        parent, _, child = name.rpartition(".")
        setattr(decoder.get_submodule(parent), child, kind(round_to(module.weight.detach(), bits)))


def _random_decoder(config: ModelConfig, raw: Mapping[str, Any]) -> Decoder:
    with torch.device("meta"):
        decoder = Decoder(config)
    state = {
        name: torch.from_numpy(random_weights.draw(name, shape)).view(torch.bfloat16)
        for name, shape in random_weights.shapes(raw)
    }
    decoder.load_state_dict(state, assign=True)
    return decoder.eval()


class Loaded:
    """A decoder, its cache and the sequences in it."""

    def __init__(self, decoder: Decoder, weights: str) -> None:
        self._decoder = decoder
        self._held: tuple[int, int, int] | None = None
        self._footprint = footprint(decoder.config, weights)

    def begin(self, context: int, room: int, streams: int) -> None:
        """Sequences of that length, those of last time when they are the same."""
        if self._held != (context, room, streams):
            self._cache, self._seqs = filled_cache(self._decoder, [context] * streams, room - context)
            self._held = (context, room, streams)
        for seq in self._seqs:
            reset(self._cache, self._decoder.config, seq, context)

    def prefill(self, ids: Sequence[int]) -> None:
        """In chunks, logits of the last token only."""
        for piece in torch.tensor(ids).split(CHUNK):
            hidden = self._forward(piece, self._seqs[:1], torch.tensor([len(piece) - 1]))
        self._logits = self._decoder.logits(hidden)

    def step(self, ids: Sequence[int]) -> None:
        """All sequences in one forward."""
        self._logits = self._decoder.logits(self._forward(torch.tensor(ids), self._seqs, None))

    def logits(self) -> list[float]:
        """Of the first sequence."""
        return self._logits[0].tolist()

    def close(self) -> None:
        """Forget the decoder."""
        del self._decoder

    def bytes_per_step(self, context: int, streams: int) -> int:
        """What a decode step has to read: all weights once, and what is attended to of every sequence."""
        return int(decode_work(self._decoder.config, self._footprint, [context] * streams).nbytes)

    def _forward(self, ids: torch.Tensor, seqs: list[int], rows: torch.Tensor | None) -> torch.Tensor:
        each = len(ids) // len(seqs)
        for seq in seqs:
            self._cache.reserve(seq, each)
        segments = tuple(Segment(seq, self._cache.length(seq), each) for seq in seqs)
        return self._decoder(Batch(ids, segments, self._cache, rows=rows))


class Ours:
    """This package."""

    def __init__(self, threads: int, _folder: Path) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._block: torch.Tensor | None = None

    def versions(self) -> dict[str, str]:
        """Of the package and what it stands on."""
        return {"minicpm": __version__, "torch": torch.__version__}

    def open(self, raw: Mapping[str, Any], weights: str, *, sparse: bool) -> Loaded:
        """See `build`."""
        return Loaded(build(raw, weights, sparse=sparse), weights)

    def bandwidth(self) -> float:
        """Bytes per second of reading 1 GiB, which is held, as making it takes longer than reading it."""
        if self._block is None:
            self._block = torch.ones(1 << 28, dtype=torch.float32)
        return side_by_side({"read": self._block.sum}, self._block.nbytes, repeats=3)["read"].median

    def arithmetic(self) -> float:
        """bf16 operations per second of a large product."""
        return matmul_rate(repeats=3)


if __name__ == "__main__":
    main(Ours)
