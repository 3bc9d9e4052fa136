"""Generated training text for nano: one module per skill, mixed by share of tokens."""

from minicpm.train.nano.corpus.mixture import CHAT, DECAY, LONG, RECALL, SHARD, STABLE, shard, stream

__all__ = ["CHAT", "DECAY", "LONG", "RECALL", "SHARD", "STABLE", "shard", "stream"]
