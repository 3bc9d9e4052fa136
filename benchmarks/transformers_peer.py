"""The same random model in this package and in transformers' Llama."""

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from minicpm.cache import PAGE, Batch, Cache, Segment
from minicpm.config import LongRope
from minicpm.models.decoder import Decoder
from minicpm.models.published import by_name
from minicpm.models.registry import parse


class Ours:
    """A prepared decoder and one sequence."""

    def __init__(self, decoder: Decoder, room: int) -> None:
        self.decoder = decoder
        self.cache: Cache = decoder.new_cache(-(-room // PAGE) + 1)
        self.seq = self.cache.open()

    def feed(self, ids: torch.Tensor) -> torch.Tensor:
        """Append ids [T]; logits [V] of the last one."""
        self.cache.reserve(self.seq, len(ids))
        segment = Segment(self.seq, self.cache.length(self.seq), len(ids))
        hidden = self.decoder(Batch(ids, (segment,), self.cache, rows=torch.tensor([len(ids) - 1])))
        return self.decoder.logits(hidden)[0]

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.cache.rewind(self.seq, length)


class Theirs:
    """transformers' Llama with its dynamic cache."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.config)

    def feed(self, ids: torch.Tensor) -> torch.Tensor:
        """Append ids [T]; logits [V] of the last one."""
        out = self.model(ids[None], past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return out.logits[0, -1].float()

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        if length == 0:
            self.cache = DynamicCache(config=self.model.config)
        elif (surplus := self.cache.get_seq_length() - length) > 0:
            self.cache.crop(-surplus)


def random_decoder(name: str, dtype: torch.dtype) -> Decoder:
    """A published shape with random weights, unprepared."""
    torch.manual_seed(0)
    decoder = Decoder(parse(by_name(name).raw)).to(dtype)
    with torch.no_grad():
        for weight in decoder.parameters():
            if weight.ndim > 1:
                weight.normal_(0, weight.shape[-1] ** -0.5)
    return decoder.eval()


def as_llama(decoder: Decoder) -> LlamaForCausalLM:
    """The same function as a plain Llama: muP folded into its weights."""
    config, mixer = decoder.config, decoder.config.layers[0].mixer
    llama = LlamaConfig(
        vocab_size=config.vocab,
        hidden_size=config.hidden,
        intermediate_size=config.layers[0].ffn.intermediate,
        num_hidden_layers=len(config.layers),
        num_attention_heads=mixer.heads,
        num_key_value_heads=mixer.kv_heads,
        head_dim=mixer.head_dim,
        max_position_embeddings=config.context,
        rms_norm_eps=config.norm_eps,
        rope_parameters=_rope(decoder),
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(llama).to(decoder.dtype)
    model.load_state_dict(_folded(decoder))
    return model.eval()


def _rope(decoder: Decoder) -> dict[str, object]:
    rope = decoder.config.rope
    assert isinstance(rope, LongRope), "the benchmark models use longrope"
    return {
        "rope_type": "longrope",
        "rope_theta": rope.theta,
        "short_factor": list(rope.short),
        "long_factor": list(rope.long),
        "original_max_position_embeddings": rope.original,
        "factor": 1.0,
    }


def _folded(decoder: Decoder) -> dict[str, torch.Tensor]:
    config = decoder.config
    state = {name: weight.detach().clone() for name, weight in decoder.state_dict().items()}
    state["lm_head.weight"] = decoder.head.detach() / config.logit_scale
    state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"] * config.embed_scale
    scaled = ("o_proj.weight", "down_proj.weight")
    return {
        name: weight * config.residual_scale if name.endswith(scaled) else weight
        for name, weight in state.items()
    }
