"""MiniCPMModel and MiniCPMForSequenceClassification: MiniCPM-Embedding and MiniCPM-Reranker."""

from dataclasses import replace

from minicpm.config import (
    GQA,
    Embedding,
    FirstToken,
    Head,
    LastToken,
    LongRope,
    ModelConfig,
    Pooling,
    RawConfig,
    Relevance,
)
from minicpm.models.families import minicpm

_EMBEDDING_TOKENS = 512
_RERANKER_TOKENS = 1024
# The Light versions, which alone have LongRoPE, close a text like a turn.
_LIGHT_END = "<|im_end|>"
_POOLINGS: dict[str, Pooling] = {"first": FirstToken(), "last": LastToken()}


def parse_embedding(raw: RawConfig) -> ModelConfig:
    """The config of MiniCPM-Embedding.

    `end_token` may spell a control token that closes every text, `max_input_tokens` the longest text.
    """
    config = minicpm.parse(raw)
    end = raw.text("end_token", _LIGHT_END if _is_light(config) else "") or None
    return _pooled(raw, config, family="minicpm-embedding", head=Embedding(end=end), tokens=_EMBEDDING_TOKENS)


def parse_reranker(raw: RawConfig) -> ModelConfig:
    """The config of MiniCPM-Reranker.

    `pooled_token` says which hidden state is judged, "first" (unless said) or "last"; `separator_token_id` is
    the id between query and document, the end-of-sequence one unless said; `max_input_tokens` bounds both.
    """
    config = minicpm.parse(raw)
    raw.expect("num_labels", (1,), "a reranker has one score")
    separator = raw.token("separator_token_id", config.eos[0] if config.eos else None)
    if separator is None:
        raw.problem(
            "there is neither separator_token_id nor eos_token_id to stand between query and document"
        )
    elif separator >= config.vocab:
        raw.problem(f"separator_token_id {separator} is none of the ids below vocab_size {config.vocab}")
    named = raw.text("pooled_token", "first")
    if named not in _POOLINGS:
        raw.problem(f"pooled_token {named!r} is neither first nor last")
    head = Relevance(separator or 0, _POOLINGS.get(named, FirstToken()))
    return _pooled(raw, config, family="minicpm-reranker", head=head, tokens=_RERANKER_TOKENS)


def _pooled(raw: RawConfig, config: ModelConfig, *, family: str, head: Head, tokens: int) -> ModelConfig:
    """Tied stands for no output matrix; what the context lacks of `tokens` stays lacking."""
    if not all(isinstance(layer.mixer, GQA) for layer in config.layers):
        raw.problem("only plain attention can look at the whole text, and this config has other layers")
    default = config.context if _is_light(config) else tokens
    longest = raw.integer("max_input_tokens", default, least=2, most=2**31)
    return replace(config, family=family, head=head, tied=True, context=min(longest, config.context))


def _is_light(config: ModelConfig) -> bool:
    return isinstance(config.rope, LongRope)
