"""The native feed-forwards of MiniCPM-S, and decoding with them: all neurons against only the active ones.

python benchmarks/active_neurons.py [--weights bf16 int8] [--sparsity 0.88] [--layers 26]
                                        [--context 128] [--threads 2] [--repeats 9] [--patience 5]

Weights are random in the published shape, with as much of its vocabulary as of its layers. The threshold of
each layer is set where it leaves the given share of neurons inactive for a text of random tokens. Before each
turn of the two, other programs are waited for with the given patience in seconds.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from measure import Rates
from rivals.quiet import Others, wait_for_quiet
from torch import Tensor

from minicpm.bench.decode import time_decode
from minicpm.bench.limits import Limits, measure_again, measure_limits
from minicpm.bench.random_model import random_decoder
from minicpm.bench.shapes import published_shape, with_layers
from minicpm.bench.weights import footprint
from minicpm.bench.work import decode_work
from minicpm.cache import Batch, Cache, Segment
from minicpm.config import Dense, FATReLU, ModelConfig
from minicpm.layers.mlp import activation
from minicpm.layers.native_neurons import NativeSparseMLP
from minicpm.models.decoder import Decoder
from minicpm.models.sparsity import skip_inactive

SHAPE = "MiniCPM-S-1B"
# Relative differences in norm: of a feed-forward, one rounding of bfloat16 or 8 bits to the other side; of
# logits, what that comes to over many layers, where a neuron at its threshold switches by about one.
FEED_FORWARD, LOGITS = 2**-7, 6e-2
_PROMPT, _STEPS = 40, 8


@dataclass(frozen=True)
class Row:
    """One work in both ways, in units per second, and the bytes that a unit of each must read.

    `share` of the neurons are active; `others` is how many cores other programs used meanwhile.
    """

    weights: str
    work: str
    dense: Rates
    active: Rates
    dense_bytes: float
    active_bytes: float
    share: float
    difference: float
    others: float

    def document(self, limits: Limits) -> dict:
        """For JSON."""
        return {
            "weights": self.weights,
            "work": self.work,
            "active_share": round(self.share, 4),
            "largest_difference": float(f"{self.difference:.3g}"),
            "others_cores": round(self.others, 2),
            "dense": self.dense.summary(),
            "active": self.active.summary(),
            "ratio": round(self.active.median / self.dense.median, 3),
            "dense_of_limit": round(self.dense.median * self.dense_bytes / limits.read_bytes_s, 3),
            "active_of_limit": round(self.active.median * self.active_bytes / limits.read_bytes_s, 3),
        }


def main() -> None:
    """For each kind of weights: build, compare, take turns, print."""
    options = _options()
    torch.manual_seed(0)
    limits, rows = measure_limits(options.threads), []
    with torch.inference_mode():
        for weights in options.weights:
            rows += _measure(options, weights)
            limits = measure_again(limits, options.threads)
    _report(options, rows, limits)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", nargs="+", default=["bf16", "int8"], choices=["bf16", "int8"])
    parser.add_argument("--sparsity", type=float, default=0.88)
    parser.add_argument("--layers", type=int, default=26, help="as many as do not fit the processor's cache")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--patience", type=float, default=5)
    return parser.parse_args()


def _measure(options: argparse.Namespace, weights: str) -> list[Row]:
    dense = _dense_decoder(options, weights)
    active = copy.deepcopy(dense)  # both hold the same matrices
    dense.restack()
    skip_inactive(active)
    return [_feed_forwards(options, weights, active), _decoding(options, weights, dense, active)]


def _dense_decoder(options: argparse.Namespace, weights: str) -> Decoder:
    config = _config(options.layers)
    decoder = random_decoder(config, weights)
    _set_thresholds(decoder, options.sparsity)
    decoder.prepare("native", threads=options.threads)
    return decoder


def _config(layers: int) -> ModelConfig:
    whole = published_shape(SHAPE)
    vocabulary = round(whole.config.vocab * layers / len(whole.config.layers)) // 32 * 32
    return replace(with_layers(whole, layers).config, vocab=vocabulary)


def _set_thresholds(decoder: Decoder, sparsity: float) -> None:
    """Layer after layer, for a layer's activations depend on the thresholds before it."""
    hooks = [
        block.mlp.register_forward_pre_hook(partial(_set_threshold, sparsity=sparsity))
        for block in decoder.model.layers
    ]
    decoder(Batch.of_sequences(_tokens(decoder, 64)))
    for hook in hooks:
        hook.remove()


def _set_threshold(mlp: torch.nn.Module, args: tuple[Tensor], *, sparsity: float) -> None:
    threshold = mlp.gate_proj(args[0]).float().quantile(sparsity).item()
    mlp.config = Dense(mlp.config.intermediate, FATReLU(threshold))
    mlp.act = activation(mlp.config.act)


def _tokens(decoder: Decoder, count: int) -> Tensor:
    return torch.randint(decoder.config.vocab, (count,))


def _halves(decoder: Decoder) -> list[NativeSparseMLP]:
    return [block.native_halves[1] for block in decoder.model.layers]


def _active_share(halves: list[NativeSparseMLP]) -> float:
    """Of the neurons, in the last forward."""
    return sum(half.neurons.active for half in halves) / sum(half.neurons.gate.shape[0] for half in halves)


def _feed_forwards(options: argparse.Namespace, weights: str, decoder: Decoder) -> Row:
    """Of one row, every layer after the other on the same numbers."""
    halves = _halves(decoder)
    x = torch.randn(1, decoder.config.hidden).bfloat16()
    dense, active = [half.dense for half in halves], [half.neurons for half in halves]
    difference = max(_difference(_added(b, x), _added(a, x)) for a, b in zip(dense, active, strict=True))
    assert difference <= FEED_FORWARD, f"the two differ by {difference:.1%}"
    rates, others = _in_turns(options, dense=partial(_run, dense, x), active=partial(_run, active, x))
    share, mlp = _active_share(halves), decoder.model.layers[0].mlp
    every, gate = mlp.fused.nbytes + mlp.down_proj.matrix.nbytes, halves[0].neurons.gate.nbytes
    return Row(
        weights=weights,
        work="feed-forward",
        dense=rates["dense"],
        active=rates["active"],
        dense_bytes=every,
        active_bytes=gate + share * (every - gate),
        share=share,
        difference=difference,
        others=others,
    )


def _run(halves: list, x: Tensor) -> float:
    """Layers per second."""
    h, began = x.clone(), time.perf_counter()
    for half in halves:
        h.copy_(x)
        half(h)
    return len(halves) / (time.perf_counter() - began)


def _added(half: object, x: Tensor) -> Tensor:
    """What a half adds to x, [1, D]."""
    h = x.clone()
    half(h)
    return h.float() - x.float()


def _difference(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).norm() / wanted.norm()).item()


def _decoding(options: argparse.Namespace, weights: str, dense: Decoder, active: Decoder) -> Row:
    """Of one sequence, with all of the model around the feed-forwards."""
    ids = _tokens(dense, _PROMPT + _STEPS)
    difference = _difference(_logits(active, ids), _logits(dense, ids))
    share, halves = _active_share(_halves(active)), _halves(active)
    assert difference <= LOGITS, f"the logits differ by {difference:.1%}"
    rates, others = _in_turns(
        options, dense=partial(_decode, options, dense), active=partial(_decode, options, active)
    )
    every = decode_work(dense.config, footprint(dense.config, weights), [options.context]).nbytes
    skipped = sum(
        (1 - share) * (block.mlp.fused.nbytes + block.mlp.down_proj.matrix.nbytes - half.neurons.gate.nbytes)
        for block, half in zip(active.model.layers, halves, strict=True)
    )
    return Row(
        weights=weights,
        work=f"decode, {len(halves)} layers",
        dense=rates["dense"],
        active=rates["active"],
        dense_bytes=every,
        active_bytes=every - skipped,
        share=share,
        difference=difference,
        others=others,
    )


def _decode(options: argparse.Namespace, decoder: Decoder) -> float:
    """Tokens per second."""
    return 1 / time_decode(decoder, context=options.context, batch=1, repeats=1).median


def _logits(decoder: Decoder, ids: Tensor) -> Tensor:
    """[T, V] of a prompt and some steps of one token."""
    cache = decoder.new_cache(2)
    seq = cache.open()
    pieces = ids.split([_PROMPT] + [1] * _STEPS)
    return torch.cat([_feed(decoder, cache, seq, piece) for piece in pieces])


def _feed(decoder: Decoder, cache: Cache, seq: int, ids: Tensor) -> Tensor:
    segment = Segment(seq, cache.length(seq), len(ids))
    taken = cache.reserve(seq, len(ids))
    assert taken, "the cache has pages for the text"
    return decoder.logits(decoder(Batch(ids, (segment,), cache))).float()


def _in_turns(options: argparse.Namespace, **works: Callable[[], float]) -> tuple[dict[str, Rates], float]:
    """The rates of works that take turns, so that all meet the same machine, and how busy others kept it."""
    values, busy = {name: [] for name in works}, []
    for _ in range(options.repeats):
        wait_for_quiet(options.patience)
        others = Others()
        for name, work in works.items():
            values[name].append(work())
        busy.append(others.cores() or 0.0)
    return {name: Rates(tuple(found)) for name, found in values.items()}, statistics.median(busy)


def _report(options: argparse.Namespace, rows: list[Row], limits: Limits) -> None:
    documents = [row.document(limits) for row in rows]
    print(_line("", "active", "all, per s", "active, per s", "ratio", "of limit", "others"))
    for row in documents:
        print(
            _line(
                f"{row['weights']} {row['work']}",
                f"{row['active_share']:.1%}",
                _spread(row["dense"]),
                _spread(row["active"]),
                f"{row['ratio']:.2f} x",
                f"{row['dense_of_limit']:.0%}, {row['active_of_limit']:.0%}",
                f"{row['others_cores']:.1f}",
            )
        )
    read = f"{limits.read_bytes_s / 1e9:.1f} GB/s on {limits.threads} threads"
    print(f"Memory reads at {read}, {limits.source}; others is cores that other programs used.")
    print(json.dumps(vars(options) | {"limits": limits.document(), "rows": documents}))


def _line(name: str, *cells: str) -> str:
    return name.ljust(23) + "".join(
        cell.rjust(width) for cell, width in zip(cells, (8, 25, 25, 9, 12, 8), strict=True)
    )


def _spread(rate: dict[str, float]) -> str:
    return f"{rate['median']:.4g} ({rate['min']:.4g} to {rate['max']:.4g})"


if __name__ == "__main__":
    main()
