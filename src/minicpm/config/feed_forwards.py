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

    def weights(self, hidden: int) -> int:
        """Number of weights at this width of the residual stream."""
        return 3 * hidden * self.intermediate


@dataclass(frozen=True, slots=True)
class MoE:
    """`experts` feed-forwards of width `intermediate`; a token uses the `chosen` most probable."""

    intermediate: int
    experts: int
    chosen: int

    def weights(self, hidden: int) -> int:
        """Number of weights at this width of the residual stream, the router's included."""
        return self.experts * (3 * hidden * self.intermediate + hidden)


FeedForward = Dense | MoE
