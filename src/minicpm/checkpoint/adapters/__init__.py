"""LoRA folders as PEFT writes them: read, checked against a model, held beside it or merged into it."""

from minicpm.checkpoint.adapters.attaching import attach, detach
from minicpm.checkpoint.adapters.folder import Adapter, open_adapter
from minicpm.checkpoint.adapters.merging import Merged, merge
from minicpm.checkpoint.adapters.settings import AdapterSettings

__all__ = ["Adapter", "AdapterSettings", "Merged", "attach", "detach", "merge", "open_adapter"]
