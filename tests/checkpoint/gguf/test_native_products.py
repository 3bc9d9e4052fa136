"""Quantized GGUF files are multiplied as the codes they hold, offsets and small groups included."""

import pytest
import torch

import minicpm
from minicpm.checkpoint import open_checkpoint
from minicpm.convert.gguf_export import to_gguf
from minicpm.layers.native_linear import NativeLinear
from minicpm.ops.native import absence
from minicpm.testing import tiny_checkpoint

pytestmark = pytest.mark.skipif(absence() is not None, reason=f"needs the compiled part: {absence()}")

# Activations in 8 bits per group and float32 sums in another order, through three layers; measured 1.5e-2.
ROUNDED = 3e-2


@pytest.mark.parametrize("type", ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0"])
def test_native_logits_are_those_of_the_decoded_matrices(type, tmp_path):
    wide = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 16, "num_key_value_heads": 4}
    source = tiny_checkpoint("minicpm4-0.5b", tmp_path / "source", dtype="bfloat16", **wide)
    made = to_gguf(open_checkpoint(source), tmp_path / "made", type=type)
    (file,) = made.path.glob("*.gguf")
    plain = minicpm.load_decoder(file, dtype="bfloat16", backend="torch")
    native = minicpm.load_decoder(file, dtype="bfloat16", backend="native")
    held = [module for module in native.modules() if isinstance(module, NativeLinear)]
    assert len(held) == 21
    assert all(module.matrix.bits < 16 for module in held)
    with torch.no_grad():
        found, wanted = (model.logits_for(torch.arange(40)) for model in (native, plain))
    assert (found - wanted).norm() < ROUNDED * wanted.norm()
