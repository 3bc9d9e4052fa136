"""How nano is trained: stages, steps and optimizer, as data."""

from dataclasses import asdict, dataclass, field
from typing import Any

from minicpm.train.groups import OptimizerConfig
from minicpm.train.nano.corpus.mixture import CHAT, LONG, STABLE
from minicpm.train.nano.data import Stage
from minicpm.train.schedule import WSD

STEP_TOKENS = 4096
CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class Recipe:
    """Steps per stage, and the learning rate over all of them.

    Practice of looking back is in the mixture from the first step; documents of full length come when the
    short ones are learned. The rate falls over the whole chat stage, as MiniCPM's two-stage rule says.
    """

    stable: int = 1800
    long: int = 2700
    chat: int = 1400
    warmup: int = 60
    floor: float = 0.02
    seed: int = 0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    @property
    def schedule(self) -> WSD:
        """Warm-up, full rate through `stable` and `long`, and the fall to `floor` over `chat`."""
        return WSD(self.warmup, self.stable + self.long, self.chat, self.floor)

    def stages(self) -> list[tuple[int, Stage]]:
        """(step at which it ends, stage) in order."""
        stages = [
            (self.stable, Stage("stable", STABLE, STEP_TOKENS, 640)),
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
