"""Lets transformers, and what builds on it, drive the decoder: importing this registers its Auto classes.

`AutoModelForCausalLM.from_pretrained` then opens MiniCPM 1B to 4.1 and SALA without remote code. Families
that transformers has itself (MiniCPM3, and MiniCPM5 as Llama) stay its own.
"""

from minicpm import errors as _errors

try:
    import transformers
except ImportError as error:
    raise _errors.MissingExtra(
        f"minicpm.hf needs transformers, which cannot be imported ({' '.join(str(error).split())}). "
        "`pip install 'minicpm[hf]'` installs it with what it needs."
    ) from error
if int(transformers.__version__.split(".", maxsplit=1)[0]) < 5:
    raise _errors.MissingExtra(
        f"minicpm.hf needs transformers 5 or newer, and {transformers.__version__} is installed. "
        "`pip install 'minicpm[hf]'` installs one."
    )

from minicpm.hf.backbone import MiniCPMDecoderModel, MiniCPMSALADecoderModel
from minicpm.hf.cache import MiniCPMCache
from minicpm.hf.causal import MiniCPMForCausalLM, MiniCPMSALAForCausalLM
from minicpm.hf.classification import (
    MiniCPMDecoderForSequenceClassification,
    MiniCPMSALADecoderForSequenceClassification,
)
from minicpm.hf.config import MiniCPMConfig, MiniCPMSALAConfig
from minicpm.hf.registering import register

__all__ = [
    "MiniCPMCache",
    "MiniCPMConfig",
    "MiniCPMDecoderForSequenceClassification",
    "MiniCPMDecoderModel",
    "MiniCPMForCausalLM",
    "MiniCPMSALAConfig",
    "MiniCPMSALADecoderForSequenceClassification",
    "MiniCPMSALADecoderModel",
    "MiniCPMSALAForCausalLM",
    "register",
]

register()
