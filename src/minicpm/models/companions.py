"""Published checkpoints that go beside a model: drafts guess its tokens, adapters change its answers."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Companion:
    """One row: its name, where it is published, its use and form, and the published model it is for."""

    name: str
    repository: str
    use: Literal["draft", "adapter"]
    form: str
    model: str


def companions() -> list[Companion]:
    """All rows, drafts first."""
    return list(_ROWS)


_ROWS = (
    Companion(
        "MiniCPM4-8B-Eagle-FRSpec",
        "openbmb/MiniCPM4-8B-Eagle-FRSpec",
        "draft",
        "EAGLE-2 over a frequency-ranked vocabulary",
        "MiniCPM4-8B",
    ),
    Companion("MiniCPM4-8B-Eagle-vLLM", "openbmb/MiniCPM4-8B-Eagle-vLLM", "draft", "EAGLE-2", "MiniCPM4-8B"),
    Companion("MiniCPM4.1-8B-Eagle3", "openbmb/MiniCPM4.1-8B-Eagle3", "draft", "EAGLE-3", "MiniCPM4.1-8B"),
    Companion("MiniCPM3-RAG-LoRA", "openbmb/MiniCPM3-RAG-LoRA", "adapter", "LoRA", "MiniCPM3-4B"),
)
