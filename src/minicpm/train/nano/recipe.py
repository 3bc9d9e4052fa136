"""How nano is trained: stages, steps and optimizer, as data."""

from dataclasses import asdict, dataclass, field
from typing import Any

from minicpm.train.groups import OptimizerConfig
from minicpm.train.nano.corpus.mixture import CHAT, DECAY, LONG, RECALL, STABLE
from minicpm.train.nano.data import Stage
from minicpm.train.schedule import Knots

STEP_TOKENS = 4096
CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class Recipe:
    """Steps per stage, and the learning rate over all of them.

    Dense practice of looking back comes once the words are known. The decay carries the chat mixture, as
    MiniCPM's two-stage rule says; documents of full length come next, and the last steps are conversations
    alone. The rate is full into the middle of `recall`, and pauses on its way down where skills form fastest.
    """

    stable: int = 1500
    recall: int = 900
    decay: int = 400
    long: int = 600
    chat: int = 450
    warmup: int = 100
    seed: int = 0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    @property
    def schedule(self) -> Knots:
        """Warm-up, full rate, fall to a seventh, a pause there through long documents, fall to the end."""
        *_, full, low, pause, end = (step for step, _ in self.stages())
        knots = ((0, 0.01), (self.warmup, 1.0), (full - self.recall * 4 // 9, 1.0))
        return Knots((*knots, (low, 0.15), (pause, 0.15), (end, 0.01)))

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
