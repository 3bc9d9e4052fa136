"""The number formats of keys and values in pages of the native kernels."""

from dataclasses import dataclass

from minicpm.cache.blocked import BlockedKeys, BlockedValues
from minicpm.cache.rounded import RoundedKeys, RoundedValues
from minicpm.config.kv import AUTO, INT8


@dataclass(frozen=True, slots=True)
class PageFormat:
    """The planes that hold keys and values, and the format's `number` in native/core/pages.hpp."""

    number: int
    keys: type[BlockedKeys]
    values: type[BlockedValues]


BFLOAT16_PAGES = PageFormat(0, BlockedKeys, BlockedValues)
INT8_PAGES = PageFormat(1, RoundedKeys, RoundedValues)

PAGE_FORMATS = {AUTO: BFLOAT16_PAGES, INT8: INT8_PAGES}
"""By what users call them; the kernels compute in bfloat16 where nothing else is asked for."""
