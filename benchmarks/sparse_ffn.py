"""A FATReLU feed-forward for one row: all neurons against only the active ones.

python benchmarks/sparse_ffn.py [--hidden 1536] [--intermediate 3840] [--sparsity 0.879] [--layers 12]
                                    [--dtype bfloat16] [--repeats 9]
"""

import argparse
import json
from functools import partial

import torch
from measure import read_bandwidth, side_by_side
from torch import nn

from minicpm.config import Dense, FATReLU
from minicpm.layers.sparse_mlp import SparseMLP
from minicpm.ops.rows import pad_rows, row_multiple

# Largest difference over largest output: sums in another order, rounded to either format.
TOLERANCE = {torch.bfloat16: 2**-6, torch.float32: 1e-5}


def main() -> None:
    """Build layers that skip and layers that do not from one seed, compare, take turns, print."""
    options = _options()
    dtype = getattr(torch, options.dtype)
    x = torch.randn(1, options.hidden).to(dtype)
    dense, sparse = (_layers(options, dtype, x) for _ in range(2))
    for layer in sparse:
        layer.skip_inactive(rows=1)
    padded = pad_rows(x, row_multiple(dtype, x.device))  # as a decoder gives a single row to its layers
    with torch.inference_mode():
        active = torch.cat([layer.inner(x) != 0 for layer in dense]).float().mean().item()
        difference = max(_difference(a(x), b(x)) for a, b in zip(dense, sparse, strict=True))
        assert difference <= TOLERANCE[dtype], f"the two disagree by {difference}"
        works = {
            "dense": partial(_run, dense, x),
            "dense as decoded": partial(_run, dense, padded),
            "sparse": partial(_run, sparse, padded),
        }
        rates = side_by_side(works, options.layers, options.repeats)
    _report(options, rates, active, difference)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=1536)
    parser.add_argument("--intermediate", type=int, default=3840)
    parser.add_argument("--sparsity", type=float, default=0.879)
    parser.add_argument("--layers", type=int, default=12, help="as many as do not fit the processor's cache")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--repeats", type=int, default=9)
    return parser.parse_args()


def _layers(options: argparse.Namespace, dtype: torch.dtype, x: torch.Tensor) -> list[SparseMLP]:
    """Random layers whose threshold leaves that share of neurons inactive for x."""
    torch.manual_seed(0)
    layers = []
    for _ in range(options.layers):
        layer = SparseMLP(options.hidden, Dense(options.intermediate, FATReLU(0.0))).to(dtype)
        gate = layer.gate_proj(x).float()
        layer.act = nn.Threshold(gate.quantile(options.sparsity).item(), 0.0)
        layer.requires_grad_(False)
        layer.prepare()
        layers.append(layer)
    return layers


def _difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found.float() - wanted.float()).abs().max() / wanted.float().abs().max()).item()


def _run(layers: list[SparseMLP], x: torch.Tensor) -> None:
    for layer in layers:
        layer(x)


def _report(options: argparse.Namespace, rates: dict, active: float, difference: float) -> None:
    size = 3 * options.hidden * options.intermediate * getattr(torch, options.dtype).itemsize
    limit = read_bandwidth() / (size * (1 + 2 * active) / 3)
    out = vars(options) | {"threads": torch.get_num_threads(), "active": round(active, 4)}
    out |= {"largest_difference": difference} | {name: rate.summary() for name, rate in rates.items()}
    for name, rate in rates.items():
        print(f"{name:17s} {1e3 / rate.median:7.3f} ms per layer")
        if name != "sparse":
            out[f"{name}_ratio"] = round(rates["sparse"].median / rate.median, 3)
            print(f"{'':17s} sparse is {out[f'{name}_ratio']:.2f} x as fast")
    out["share_of_limit"] = round(rates["sparse"].median / limit, 3)
    print(f"sparse reaches {out['share_of_limit']:.0%} of what the memory's bandwidth allows")
    print(json.dumps(out))


if __name__ == "__main__":
    main()
