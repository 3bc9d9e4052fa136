"""Published configs as transformers configs, every key kept under its published name."""

from typing import Any

from transformers import PreTrainedConfig

from minicpm.config import ModelConfig, NextToken
from minicpm.errors import UnknownModel
from minicpm.hf.names import CACHE_NAME
from minicpm.models import registry

# transformers would fold these into one of its own, which the published readers do not know.
_ROPE = ("rope_scaling", "rope_theta", "rope_parameters")


class MiniCPMConfig(PreTrainedConfig):
    """The config of a checkpoint with model_type "minicpm": all its keys are attributes, and are saved."""

    model_type = "minicpm"
    keys_to_ignore_at_inference = [CACHE_NAME]  # noqa: RUF012 - transformers reads a list
    architecture = "MiniCPMForCausalLM"
    tie_word_embeddings = True
    use_cache = True
    bos_token_id = 1
    eos_token_id = 2
    pad_token_id = None
    rope_scaling = None

    def __init__(self, **published: Any) -> None:
        rope = {key: published.pop(key) for key in _ROPE if key in published}
        super().__init__(**published)
        for key, value in rope.items():
            setattr(self, key, value)
        if "use_cache" in published:
            self.use_cache = published["use_cache"]


class MiniCPMSALAConfig(MiniCPMConfig):
    """The same for model_type "minicpm_sala"."""

    model_type = "minicpm_sala"
    architecture = "MiniCPMSALAForCausalLM"
    tie_word_embeddings = False


def read_shape(config: MiniCPMConfig) -> ModelConfig:
    """What the config describes, read as strictly as a config.json is.

    Raises what `minicpm.models.registry.parse` does, and UnknownModel for models that embed or rank texts.
    """
    raw = config.to_dict()
    if set(raw.get("architectures") or ()) <= set(own_architectures(config)):
        raw["architectures"] = [config.architecture]
    shape = registry.parse(raw)
    if not isinstance(shape.head, NextToken):
        raise UnknownModel(
            f"This checkpoint ({shape.family}) embeds or ranks texts, for which the Auto classes have no "
            "place: a plain AutoModel would leave out its pooling. Open it with minicpm itself."
        )
    return shape


def own_architectures(config: MiniCPMConfig) -> tuple[str, ...]:
    """The names that models of this room save, which stand for the family's published decoder."""
    stem = config.architecture.removesuffix("ForCausalLM")
    return (config.architecture, f"{stem}DecoderModel", f"{stem}DecoderForSequenceClassification")
