"""The decoder's modules as a transformers model, from token ids to hidden states."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.generic import can_return_tuple

from minicpm.cache import Batch, Segment
from minicpm.errors import BadParameter
from minicpm.hf.cache import MiniCPMCache
from minicpm.hf.config import MiniCPMConfig, MiniCPMSALAConfig, read_shape
from minicpm.hf.names import CACHE_NAMES, cache_field, one_cache
from minicpm.hf.packing import Packing, real_tokens
from minicpm.hf.positions import runs
from minicpm.layers.block import Block
from minicpm.models.decoder import Decoder
from minicpm.models.trunk import Stack
from minicpm.ops.backend import REFERENCE, TORCH


class CheckpointedBlock(Block, GradientCheckpointingLayer):
    """A block that is computed a second time in the backward pass where gradient checkpointing is on."""


class MiniCPMPreTrainedModel(PreTrainedModel):
    """What all models of this room tell transformers."""

    config_class: type[MiniCPMConfig] = MiniCPMConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    # Lists, as transformers adds to copies of them.
    _no_split_modules = ["MiniCPMDecoderModel", "MiniCPMSALADecoderModel"]  # noqa: RUF012
    _skip_keys_device_placement = [*CACHE_NAMES]  # noqa: RUF012
    # Tables that old checkpoints carry and that are computed from the config instead.
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$"]  # noqa: RUF012


class _Memory(NamedTuple):
    """The cache a forward fills, and the one it returns."""

    filled: MiniCPMCache | None
    returned: MiniCPMCache | None


class MiniCPMDecoderModel(MiniCPMPreTrainedModel):
    """Token ids to hidden states after the final norm; the modules are the decoder's own, under its names.

    Rows of a batch may be padded on either side, or anywhere; hidden states of padding are zero.
    """

    def __init__(self, config: MiniCPMConfig) -> None:
        super().__init__(config)
        self.shape = read_shape(config)
        config.tie_word_embeddings = self.shape.tied
        for name, module in Stack(self.shape, CheckpointedBlock).named_children():
            self.add_module(name, module)
        self.post_init()

    def decoder(self, **heads: torch.nn.Module) -> Decoder:
        """A decoder over these modules, and over heads by their names."""
        decoder = Decoder.over(self.shape, self, **heads)
        decoder.backend = REFERENCE if self.config._attn_implementation == "eager" else TORCH
        return decoder

    @can_return_tuple
    def forward(  # noqa: PLR0917 - the order is transformers'
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: MiniCPMCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        past_key_values: MiniCPMCache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states [B, T, D] of input_ids [B, T], or of inputs_embeds [B, T, D] that are scaled already.

        `past_key_values` is the older name of `cache`. Raises BadParameter for input that cannot be
        computed as it is meant.
        """
        self._refuse_attentions(output_attentions)
        tokens = _one_of(input_ids, inputs_embeds)
        filled, returned = self._memory(one_cache(cache, past_key_values), use_cache)
        if filled is not None:
            filled.require_usable(rows=tokens.shape[0])
        packing = Packing.of(real_tokens(attention_mask, tokens, None if filled is None else filled.real))
        decoder = self.decoder()
        batch = _batch(decoder, packing, filled, (input_ids, inputs_embeds, position_ids))
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        layers = range(len(self.shape.layers)) if output_hidden_states else ()
        last, features = decoder.forward_with_features(batch, layers)
        if filled is not None:
            filled.finish(packing)
        hidden = packing.unpack(last)
        return BaseModelOutputWithPast(
            last_hidden_state=hidden,
            hidden_states=(*map(packing.unpack, features), hidden) if output_hidden_states else None,
            **cache_field(returned),
        )

    def _memory(self, past: MiniCPMCache | None, use_cache: bool | None) -> _Memory:
        if past is None and use_cache is None:
            use_cache = self.config.use_cache and not self.training
            if use_cache and torch.is_grad_enabled():
                # A cache nobody asked for must not stand between a loss and its gradients.
                return _Memory(None, MiniCPMCache.withheld())
        if past is None and not use_cache:
            return _Memory(None, None)
        if past is not None and not isinstance(past, MiniCPMCache):
            raise BadParameter(
                f"The cache is a {type(past).__name__}, which cannot hold what these models remember. "
                "Leave it out, or begin with minicpm.hf.MiniCPMCache()."
            )
        if torch.is_grad_enabled() and any(layer.mixer.state_values for layer in self.shape.layers):
            raise BadParameter(
                "Gradients do not pass through the running states this model caches. Use the cache under "
                "torch.no_grad(), and use_cache=False where gradients are needed."
            )
        cache = MiniCPMCache() if past is None else past
        return _Memory(cache, cache)

    def _refuse_attentions(self, asked: bool | None) -> None:
        if asked or (asked is None and self.config.output_attentions):
            raise BadParameter(
                "output_attentions was asked for, and these models never hold attention weights. "
                "Leave it out."
            )


class MiniCPMSALADecoderModel(MiniCPMDecoderModel):
    """The same for MiniCPM-SALA."""

    config_class = MiniCPMSALAConfig


def _one_of(input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
    given = [tensor for tensor in (input_ids, inputs_embeds) if tensor is not None]
    if len(given) != 1:
        raise BadParameter(
            f"{len(given)} of input_ids and inputs_embeds were given; exactly one is needed. Embeddings must "
            "be scaled already: get_input_embeddings()(ids) times the config's scale_emb."
        )
    return given[0]


def _batch(
    decoder: Decoder,
    packing: Packing,
    cache: MiniCPMCache | None,
    inputs: tuple[Tensor | None, Tensor | None, Tensor | None],
) -> Batch:
    ids, embeds, positions = inputs
    packed = packing.pack(ids) if ids is not None else packing.real.new_zeros(sum(packing.counts)).long()
    embedded = None if embeds is None else packing.pack(embeds)
    if cache is None:
        counts = runs(positions, packing, lengths=[0] * len(packing.counts), columns=0)
        segments = tuple(Segment(None, 0, count) for row in counts for count in row if count)
        return Batch(packed, segments, embedded=embedded)
    columns = cache.get_seq_length()
    counts = runs(positions, packing, lengths=cache.lengths, columns=columns)
    if any(len(row) > 1 for row in counts):
        raise BadParameter(
            "position_ids put several sequences into one row, which a cache cannot continue. Pass "
            "use_cache=False, or give every sequence a row."
        )
    inner, segments = cache.begin(decoder, packing)
    return Batch(packed, segments, inner, embedded=embedded)
