"""Decides how many pages a cache gets when nobody says."""

import torch

from minicpm.cache import PAGE
from minicpm.checkpoint.available import memory_limits, tightest
from minicpm.config import ModelConfig
from minicpm.config.kv import AUTO
from minicpm.config.memory import page_bytes, state_bytes
from minicpm.engine.prefix import MAX_HOLDERS

CACHE_SHARE = 0.5
"""Part of the free memory that a cache may take unless its size was asked for."""
SMALL_CONTEXT = 8192
"""Below this many tokens of context there are pages for several sequences."""

PREFIX_STATE_BYTES = 2**30
"""Recurrent states that finished sequences may hold for reuse: 21 sequences of MiniCPM-SALA."""


def default_pages(config: ModelConfig, dtype: str, free_bytes: int | None, kv: str = AUTO) -> int:
    """Pages for one full context, or fewer where free memory bounds them; at least one."""
    wanted = -(-max(config.context, SMALL_CONTEXT) // PAGE)
    if free_bytes is None:
        return wanted
    page = max(page_bytes(config, dtype, kv), 1)  # a model without attention keeps nothing in its pages
    return max(1, min(wanted, int(free_bytes * CACHE_SHARE) // page))


def prefix_holders(config: ModelConfig) -> int:
    """How many finished sequences may be held: pages are given up when they run out, states never run out."""
    states = state_bytes(config)
    return max(1, min(MAX_HOLDERS, PREFIX_STATE_BYTES // states)) if states else MAX_HOLDERS


def free_bytes_on(device: torch.device) -> int | None:
    """Bytes that may still be taken on a device; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limit = tightest(memory_limits())
    return None if limit is None else limit.free_bytes
