"""How nano is trained: stages, steps and optimizer, as data."""

from dataclasses import asdict, dataclass, field
from typing import Any

from minicpm.train.groups import OptimizerConfig
from minicpm.train.nano.corpus.mixture import CHAT, DECAY, LONG, RECALL, STABLE
from minicpm.train.nano.data import Stage
from minicpm.train.schedule import WSD

STEP_TOKENS = 4096
CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class Recipe:
    """Steps per stage; the learning rate is full for `plateau` steps and then falls to `floor` at the end.

    Dense practice of looking back comes once the words are known. The decay carries the chat mixture, as
    MiniCPM's two-stage rule says; documents of full length come next, and the last steps are conversations
    alone.
    """

    stable: int = 1500
    recall: int = 900
    decay: int = 500
    long: int = 500
    chat: int = 300
    plateau: int = 2000
    floor: float = 0.02
    warmup: int = 100
    seed: int = 0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    @property
    def schedule(self) -> WSD:
        """Warm-up, plateau, exponential fall to the last step of the last stage."""
        total = self.stages()[-1][0]
        plateau = min(self.plateau, total)
        return WSD(self.warmup, plateau, total - plateau, self.floor)

    def stages(self) -> list[tuple[int, Stage]]:
        """(step at which it ends, stage) in order."""
        stages = [
            (self.stable, Stage("stable", STABLE, STEP_TOKENS, 640)),
            (self.recall, Stage("recall", RECALL, STEP_TOKENS, 1024)),
            (self.decay, Stage("decay", DECAY, STEP_TOKENS, 1024)),
            (self.long, Stage("long", LONG, STEP_TOKENS, CONTEXT)),
            (self.chat, Stage("chat", CHAT, STEP_TOKENS, CONTEXT)),
        ]
        ends, out = 0, []
        for steps, stage in stages:
            ends += steps
            out.append((ends, stage))
        return out

    def as_dict(self) -> dict[str, Any]:
        """For logs and the model card."""
        return asdict(self)
