"""Prefill and decode of a random model of a published shape, beside transformers' Llama.

python benchmarks/speed.py [--model MiniCPM4-0.5B] [--dtype bfloat16]
                               [--prompt 512] [--tokens 32] [--repeats 5]
"""

import argparse
import json
from functools import partial

import torch
from measure import matmul_rate, read_bandwidth, side_by_side
from transformers_peer import Ours, Theirs, as_llama, random_decoder

from minicpm.config import parameter_count
from minicpm.models.decoder import Decoder

# Largest difference of log-probabilities, in bf16 of either side's own rounding.
TOLERANCE = {torch.bfloat16: 0.25, torch.float32: 1e-3}


def main() -> None:
    """Build both, compare results, take turns, print a table and one JSON line."""
    options = _options()
    dtype = getattr(torch, options.dtype)
    decoder = random_decoder(options.model, dtype)
    sides = {
        "transformers": Theirs(as_llama(decoder)),
        "minicpm": Ours(decoder, options.prompt + options.tokens),
    }
    decoder.prepare()
    prompt = torch.randint(0, decoder.config.vocab, (options.prompt,))
    with torch.inference_mode():
        difference = _check(sides, prompt, TOLERANCE[dtype])
        prefill = side_by_side(
            {name: partial(_prefill, side, prompt) for name, side in sides.items()},
            len(prompt),
            options.repeats,
        )
        decode = side_by_side(
            {name: partial(_decode, side, len(prompt), options.tokens) for name, side in sides.items()},
            options.tokens,
            options.repeats,
        )
        limits = _limits(decoder, dtype)
    _report(options, difference, {"prefill": prefill, "decode": decode}, limits)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="MiniCPM4-0.5B")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def _check(sides: dict, prompt: torch.Tensor, tolerance: float) -> float:
    logits = [side.feed(prompt).log_softmax(-1) for side in sides.values()]
    difference = (logits[0] - logits[1]).abs().max().item()
    assert difference <= tolerance, f"the two disagree: log-probabilities differ by {difference}"
    return difference


def _prefill(side: Ours | Theirs, prompt: torch.Tensor) -> None:
    side.rewind(0)
    side.feed(prompt)


def _decode(side: Ours | Theirs, length: int, tokens: int) -> None:
    side.rewind(length)
    token = torch.zeros(1, dtype=torch.int64)
    for _ in range(tokens):
        token = side.feed(token).argmax(keepdim=True)


def _limits(decoder: Decoder, dtype: torch.dtype) -> dict[str, float]:
    """Tokens per second if only the memory, or only the multiplier, bound the work."""
    count = parameter_count(decoder.config)
    layers = count - decoder.config.vocab * decoder.config.hidden
    return {"decode": read_bandwidth() / (count * dtype.itemsize), "prefill": matmul_rate() / (2 * layers)}


def _report(options: argparse.Namespace, difference: float, results: dict, limits: dict[str, float]) -> None:
    out = vars(options) | {"threads": torch.get_num_threads(), "largest_difference": round(difference, 4)}
    for work, rates in results.items():
        ratio = rates["minicpm"].median / rates["transformers"].median
        share = rates["minicpm"].median / limits[work]
        limit = f"{share:.0%} of the measured limit of {limits[work]:.1f} tok/s"
        print(f"{work}: {ratio:.2f} x transformers, {limit}")
        for name, rate in rates.items():
            print(
                f"  {name:13s} {rate.median:8.1f} tok/s  ({min(rate.values):.1f} to {max(rate.values):.1f})"
            )
        out[work] = {name: rate.summary() for name, rate in rates.items()} | {
            "ratio": round(ratio, 3),
            "share_of_limit": round(share, 3),
        }
    print(json.dumps(out))


if __name__ == "__main__":
    main()
