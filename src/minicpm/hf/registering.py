"""Makes transformers' Auto classes open MiniCPM checkpoints with the classes of this room."""

import warnings
from dataclasses import dataclass

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from minicpm.hf.backbone import MiniCPMDecoderModel, MiniCPMSALADecoderModel
from minicpm.hf.causal import MiniCPMForCausalLM, MiniCPMSALAForCausalLM
from minicpm.hf.classification import (
    MiniCPMDecoderForSequenceClassification,
    MiniCPMSALADecoderForSequenceClassification,
)
from minicpm.hf.config import MiniCPMConfig, MiniCPMSALAConfig

# Reads tokenizer.json as it is. The class that published tokenizer_config.json files name builds a pipeline
# of its own, with other ids for the same text.
_TOKENIZER = "TokenizersBackend"


@dataclass(frozen=True, slots=True)
class _Family:
    """A model_type's config, and its model of each kind."""

    config: type[MiniCPMConfig]
    base: type[PreTrainedModel]
    causal: type[PreTrainedModel]
    labels: type[PreTrainedModel]


_FAMILIES = (
    _Family(MiniCPMConfig, MiniCPMDecoderModel, MiniCPMForCausalLM, MiniCPMDecoderForSequenceClassification),
    _Family(
        MiniCPMSALAConfig,
        MiniCPMSALADecoderModel,
        MiniCPMSALAForCausalLM,
        MiniCPMSALADecoderForSequenceClassification,
    ),
)


def register(*, override: bool = False) -> None:
    """Register every model_type of this room with AutoConfig, AutoTokenizer and the AutoModel classes.

    A model_type that transformers or another package already has stays theirs, with a warning, unless
    `override`.
    """
    for family in _FAMILIES:
        name = family.config.model_type
        theirs = CONFIG_MAPPING[name] if name in CONFIG_MAPPING else family.config  # noqa: SIM401 - no usual dict
        if theirs is not family.config and not override:
            warnings.warn(
                f"The model_type {name!r} is already registered, with {theirs.__module__}.{theirs.__name__}; "
                "it stays so. Call minicpm.hf.register(override=True) to open it with minicpm, or use "
                f"minicpm.hf.{family.causal.__name__} by name.",
                stacklevel=2,
            )
            continue
        _register(family)


def _register(family: _Family) -> None:
    AutoConfig.register(family.config.model_type, family.config, exist_ok=True)
    AutoModel.register(family.config, family.base, exist_ok=True)
    AutoModelForCausalLM.register(family.config, family.causal, exist_ok=True)
    AutoModelForSequenceClassification.register(family.config, family.labels, exist_ok=True)
    TOKENIZER_MAPPING_NAMES[family.config.model_type] = _TOKENIZER
