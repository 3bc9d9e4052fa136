"""Log-probabilities of tokens and of their likeliest alternatives."""

import torch
from torch import Tensor

from minicpm.engine.request import TokenScore


def score(row: Tensor, token: int, alternatives: int) -> TokenScore:
    """The score of one token in its row of logits [V]."""
    return scores(row[None], [token], alternatives)[0]


def scores(logits: Tensor, tokens: list[int], alternatives: int) -> list[TokenScore]:
    """Scores of one token per row of logits [R, V]; log-softmax in float32."""
    logprobs = logits.float().log_softmax(-1)
    chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    best = logprobs.topk(min(alternatives, logprobs.shape[1]))
    rows = zip(tokens, chosen, best.indices.tolist(), best.values.tolist(), strict=True)
    return [TokenScore(token, logprob, tuple(zip(i, v, strict=True))) for token, logprob, i, v in rows]
