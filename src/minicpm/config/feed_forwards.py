"""The feed-forwards a layer may hold, as frozen data."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SiLU:
    """x * sigmoid(x)."""


@dataclass(frozen=True, slots=True)
class FATReLU:
    """x where x > threshold, else 0 (ProSparse, arXiv 2402.13516)."""

    threshold: float


Activation = SiLU | FATReLU


@dataclass(frozen=True, slots=True)
class Dense:
    """A gated feed-forward of width `intermediate`: down(act(gate(x)) * up(x))."""

    intermediate: int
    act: Activation = SiLU()

    @property
    def stacked(self) -> int:
        """Rows of the largest matrix that preparing builds: gate and up."""
        return 2 * self.intermediate

    def weights(self, hidden: int) -> int:
        """Number of weights at this width of the residual stream."""
        return 3 * hidden * self.intermediate


@dataclass(frozen=True, slots=True)
class MoE:
    """`experts` feed-forwards of width `intermediate`; a token uses the `chosen` most probable."""

    intermediate: int
    experts: int
    chosen: int

    @property
    def stacked(self) -> int:
        """Rows of the largest matrix that preparing builds: gate and up of all experts."""
        return 2 * self.intermediate * self.experts

    def weights(self, hidden: int) -> int:
        """Number of weights at this width of the residual stream, the router's included."""
        return self.experts * (3 * hidden * self.intermediate + hidden)


FeedForward = Dense | MoE
