"""A decoder of any shape with random weights, packed from the start."""

import torch
from torch import Tensor, nn

from minicpm.bench.noise import deviation_of_codes, fill_uniform, random_codes
from minicpm.bench.weights import code_group, held_bits
from minicpm.checkpoint.building import blank
from minicpm.config import ModelConfig
from minicpm.layers.quant_embedding import QuantEmbedding
from minicpm.layers.quant_linear import QuantLinear
from minicpm.models.decoder import Decoder
from minicpm.ops.quant_tensor import QuantTensor, Scheme


def random_decoder(config: ModelConfig, weights: str, *, seed: int = 0) -> Decoder:
    """An unprepared decoder of bfloat16 weights, held in the format `weights` as loading would hold them.

    No more is ever held than what it keeps. Matrices have variance 1 / inputs and norms are one, so that
    activations stay near one at any depth.
    """
    decoder = blank(config)
    assert isinstance(decoder, Decoder), "only models that write text are measured"
    generator = torch.Generator().manual_seed(seed)
    for name, bits in held_bits(decoder, weights).items():
        weight = decoder.get_parameter(f"{name}.weight")
        matrix = _random_matrix(weight.shape, bits, _std(config, name, weight), generator)
        parent, _, child = name.rpartition(".")
        above = decoder.get_submodule(parent)
        kind = QuantEmbedding if isinstance(getattr(above, child), nn.Embedding) else QuantLinear
        setattr(above, child, kind(matrix))
    _fill_rest(decoder, generator)
    return decoder.eval()


def _random_matrix(shape: torch.Size, bits: int, std: float, generator: torch.Generator) -> QuantTensor:
    outputs, inputs = shape
    group, stride = code_group(inputs, bits), -(-inputs * bits // 8)
    codes = random_codes(outputs * stride, bits, generator).view(outputs, stride)
    scale = std / deviation_of_codes(bits)
    scales = torch.full((outputs, inputs // group), scale, dtype=torch.bfloat16)
    return QuantTensor(codes, scales, None, Scheme(bits, group))


def _fill_rest(decoder: Decoder, generator: torch.Generator) -> None:
    """Give memory and numbers to what has none yet: norms, embedding, head, routers, plain projections."""
    for name, parameter in list(decoder.named_parameters()):
        parent, _, child = name.rpartition(".")
        made = torch.empty(parameter.shape, dtype=torch.bfloat16)
        if made.ndim == 1:
            made.fill_(1)
        else:
            fill_uniform(made, _std(decoder.config, parent, parameter), generator)
        setattr(decoder.get_submodule(parent), child, nn.Parameter(made, requires_grad=False))


def _std(config: ModelConfig, name: str, parameter: Tensor) -> float:
    """1 / sqrt(inputs); of the embedding what makes its scaled rows as large as a norm's."""
    if name.endswith("embed_tokens"):
        return 1 / config.embed_scale
    return float(parameter.shape[-1] ** -0.5)
