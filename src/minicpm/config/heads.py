"""What a model makes of its hidden states, as frozen data."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NextToken:
    """Logits over the vocabulary for the token that follows; a token sees itself and those before it."""

    def weights(self, hidden: int) -> int:
        """Number of weights at this width of the residual stream, beside the embedding and `lm_head`."""
        return 0


@dataclass(frozen=True, slots=True)
class WeightedMean:
    """sum_j j h_j / sum_j j over the tokens j = 1 .. n of a text (SGPT, arXiv 2202.08904)."""


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The hidden state of the first token."""


@dataclass(frozen=True, slots=True)
class LastToken:
    """The hidden state of the last token."""


Pooling = WeightedMean | FirstToken | LastToken


@dataclass(frozen=True, slots=True)
class Embedding:
    """One vector of length 1 per text; a token sees the whole text.

    `end` is the spelling of a control token that closes every text; None where there is none.
    """

    pooling: Pooling = WeightedMean()
    end: str | None = None

    def weights(self, hidden: int) -> int:
        """Number of weights at this width of the residual stream, beside the embedding."""
        return 0


@dataclass(frozen=True, slots=True)
class Relevance:
    """One number per query and document, of which a token sees both; `separator` is the id between them."""

    separator: int
    pooling: Pooling = FirstToken()

    def weights(self, hidden: int) -> int:
        """Number of weights at this width of the residual stream, beside the embedding."""
        return hidden


Head = NextToken | Embedding | Relevance
