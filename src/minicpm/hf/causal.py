"""The decoder with its output head: scores for the next token, a loss, generation."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from minicpm.errors import BadParameter
from minicpm.hf.backbone import MiniCPMDecoderModel, MiniCPMPreTrainedModel, MiniCPMSALADecoderModel
from minicpm.hf.cache import MiniCPMCache
from minicpm.hf.chat import PublishedChat
from minicpm.hf.config import MiniCPMConfig, MiniCPMSALAConfig
from minicpm.hf.names import CACHE_NAME, cache_field, cache_of, one_cache


class MiniCPMForCausalLM(PublishedChat, MiniCPMPreTrainedModel, GenerationMixin):
    """A MiniCPM language model; parameter names are the published ones."""

    backbone_class = MiniCPMDecoderModel
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 - transformers reads a dict

    def __init__(self, config: MiniCPMConfig) -> None:
        super().__init__(config)
        self.model = self.backbone_class(config)
        self.lm_head = nn.Linear(self.model.shape.hidden, self.model.shape.vocab, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(  # noqa: PLR0917 - the order is transformers'
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: MiniCPMCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: MiniCPMCache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [B, K, V] float32 of the positions to keep, all of them when `logits_to_keep` is 0.

        With labels [B, T] also the mean cross entropy of each token given those before it. Left out are
        labels of -100, and those of a token that only padding goes before.
        `past_key_values` is the older name of `cache`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=one_cache(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            **kwargs,
        )
        kept = _kept(outputs.last_hidden_state, logits_to_keep)
        logits = (
            self.model.decoder(lm_head=self.lm_head).logits(kept.flatten(0, -2)).unflatten(0, kept.shape[:-1])
        )
        loss = None
        if labels is not None:
            labels = _predicted(labels, attention_mask)
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            **cache_field(cache_of(outputs)),
        )

    def _prepare_cache_for_generation(  # type: ignore[override]  # for other versions too
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Begin with a cache of ours, where transformers would make one of its own."""
        asked = generation_config.cache_implementation
        if asked not in (None, "dynamic"):
            raise BadParameter(
                f"cache_implementation is {asked!r}, and these models keep their own cache, which grows as "
                "needed. Leave it out."
            )
        if model_kwargs.get(CACHE_NAME) is None and generation_config.use_cache is not False:
            model_kwargs[CACHE_NAME] = MiniCPMCache()
            return
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)  # type: ignore[misc]


class MiniCPMSALAForCausalLM(MiniCPMForCausalLM):
    """MiniCPM-SALA."""

    config_class = MiniCPMSALAConfig
    backbone_class = MiniCPMSALADecoderModel


def _predicted(labels: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The labels [B, T], but -100 where the position before, which would have to predict it, is padding."""
    if attention_mask is None:
        return labels
    padding = attention_mask[:, -labels.shape[1] : -1].to(labels.device) == 0
    return labels.masked_fill(nn.functional.pad(padding, (1, 0)), -100)


def _kept(hidden: Tensor, keep: int | Tensor) -> Tensor:
    """The last `keep` positions of hidden [B, T, D]; or positions [K], positions [B, K], or a mask [B, T]."""
    if isinstance(keep, int):
        return hidden[:, -keep:]
    if keep.ndim == 1:
        return hidden[:, keep]
    if keep.dtype == torch.bool:
        return hidden[keep]
    return torch.take_along_dim(hidden, keep[..., None], dim=1)
