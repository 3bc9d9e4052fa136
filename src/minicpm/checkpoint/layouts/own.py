"""Our own layout: a `QuantTensor` as it is held, its scheme in config.json.

Of a packed module X the file has X.codes uint8 [O, ceil(I * bits / 8)], X.scales [O, I / g], and X.zeros or
X.offsets [O, I / g] where there are any. config.json says, for a module that differs from the default in
"modules":

    "quantization_config": {
        "quant_method": "minicpm", "format": 1,
        "default": {"bits": 4, "group": 64, "symmetric": true},
        "modules": {"lm_head": {"bits": 8, "group": 128, "symmetric": true}}
    }
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from minicpm.checkpoint.layouts.words import kept_dtype
from minicpm.ops.quant_tensor import QuantTensor, Scheme

METHOD, FORMAT = "minicpm", 1
PARTS = ("codes", "scales", "zeros", "offsets")


def unpack(held: Mapping[str, Tensor], *, scheme: Scheme, dtype: torch.dtype) -> QuantTensor:
    """The matrix of this dtype, of tensors by the ends of their names."""
    return QuantTensor(
        codes=held["codes"],
        scales=held["scales"],
        zeros=held.get("zeros"),
        scheme=scheme,
        offsets=held.get("offsets"),
        result=kept_dtype(held["scales"], dtype),
    )


def pack(module: str, weight: QuantTensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a packed module under their names."""
    for part in PARTS:
        if (tensor := getattr(weight, part)) is not None:
            yield f"{module}.{part}", tensor


def quantization_config(schemes: Mapping[str, Scheme]) -> dict[str, Any]:
    """What config.json says of packed modules: the most frequent scheme, and those that differ."""
    assert schemes, "nothing is packed"
    default = Counter(schemes.values()).most_common(1)[0][0]
    others = {name: _words(scheme) for name, scheme in schemes.items() if scheme != default}
    return {"quant_method": METHOD, "format": FORMAT, "default": _words(default), "modules": others}


def _words(scheme: Scheme) -> dict[str, Any]:
    return {"bits": scheme.bits, "group": scheme.group, "symmetric": scheme.symmetric}
