"""Remembers per-sequence state in pages of 64 tokens and says what of it can be reused."""

from minicpm.cache.batch import Batch, Segment
from minicpm.cache.blocked_store import BlockedSparseStore, BlockedStore
from minicpm.cache.cache import Cache, CachePlan
from minicpm.cache.latent_store import LatentStore
from minicpm.cache.page_format import BFLOAT16_PAGES, INT8_PAGES, PAGE_FORMATS, PageFormat
from minicpm.cache.pages import PAGE, PagePool
from minicpm.cache.recent import Recent
from minicpm.cache.sparse_store import SparseStore
from minicpm.cache.state_store import StateStore
from minicpm.cache.store import SequenceStore, Store
from minicpm.cache.token_store import Rows, TokenStore

__all__ = [
    "BFLOAT16_PAGES",
    "INT8_PAGES",
    "PAGE",
    "PAGE_FORMATS",
    "Batch",
    "BlockedSparseStore",
    "BlockedStore",
    "Cache",
    "CachePlan",
    "LatentStore",
    "PageFormat",
    "PagePool",
    "Recent",
    "Rows",
    "Segment",
    "SequenceStore",
    "SparseStore",
    "StateStore",
    "Store",
    "TokenStore",
]
