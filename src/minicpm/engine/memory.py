"""Decides how many pages a cache gets when nobody says."""

import torch

from minicpm.cache import PAGE
from minicpm.checkpoint.available import memory_limits, tightest
from minicpm.config import ModelConfig
from minicpm.config.memory import page_bytes

CACHE_SHARE = 0.5
"""Part of the free memory that a cache may take unless its size was asked for."""
SMALL_CONTEXT = 8192
"""Below this many tokens of context there are pages for several sequences."""


def default_pages(config: ModelConfig, dtype: str, free_bytes: int | None) -> int:
    """Pages for one full context, or fewer where free memory bounds them; at least one."""
    wanted = -(-max(config.context, SMALL_CONTEXT) // PAGE)
    if free_bytes is None:
        return wanted
    return max(1, min(wanted, int(free_bytes * CACHE_SHARE) // page_bytes(config, dtype)))


def free_bytes_on(device: torch.device) -> int | None:
    """Bytes that may still be taken on a device; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limit = tightest(memory_limits())
    return None if limit is None else limit.free_bytes
