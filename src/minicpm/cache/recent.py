"""The last few tokens of a recurrent layer, kept so that a sequence can go back among them."""

from dataclasses import dataclass

from torch import Tensor

from minicpm.ops.lightning.tree import commit


@dataclass(frozen=True, slots=True)
class Recent:
    """Keys and values [T, H, d] of the tokens since length `start`, and the state [H, dk, dv] they met there.

    Any state among them is one product away, so a draft whose end is rejected costs no forward. A state of
    None is that of a sequence's start.
    """

    start: int
    state: Tensor | None
    k: Tensor
    v: Tensor
    slopes: Tensor

    def state_at(self, length: int) -> Tensor:
        """The state after all tokens up to `length`, at least 1."""
        if length == self.start and self.state is not None:
            return self.state
        return commit(self.k, self.v, self.state, range(length - self.start), slopes=self.slopes)
