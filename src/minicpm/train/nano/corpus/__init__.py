"""Generated training text for nano: one module per skill, mixed by share of tokens."""

from minicpm.train.nano.corpus.mixture import CHAT, LONG, SHARD, STABLE, shard, stream

__all__ = ["CHAT", "LONG", "SHARD", "STABLE", "shard", "stream"]
