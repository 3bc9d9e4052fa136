"""Changes one row of logits by what a request asks for and what its sequence already holds."""

from collections import Counter
from collections.abc import Collection

import torch
from torch import Tensor

from minicpm.engine.request import Sequence


def adjusted(row: Tensor, sequence: Sequence) -> Tensor:
    """Logits [V] float32 after bias, penalties and min_tokens; `row` itself is left as it is."""
    if sequence.params.plain:
        return row
    row = row.clone()
    _add_bias(row, sequence)
    _repetition(row, sequence)
    _frequency_and_presence(row, sequence)
    if sequence.generated < sequence.params.min_tokens:
        row[_ids(sequence.stop_ids, row)] = -torch.inf
    return row


def _add_bias(row: Tensor, sequence: Sequence) -> None:
    biases = sequence.params.logit_bias
    if biases:
        added = torch.tensor(list(biases.values()), dtype=row.dtype, device=row.device)
        row[_ids(biases.keys(), row)] += added


def _repetition(row: Tensor, sequence: Sequence) -> None:
    """Keskar et al., arXiv:1909.05858 section 4.1, with the sign rule of transformers."""
    penalty = sequence.params.repetition_penalty
    if penalty != 1:
        ids = _ids(set(sequence.tokens), row)
        seen = row[ids]
        row[ids] = torch.where(seen > 0, seen / penalty, seen * penalty)


def _frequency_and_presence(row: Tensor, sequence: Sequence) -> None:
    params = sequence.params
    counts = Counter(sequence.tokens[sequence.prompt_length :])
    if counts and (params.frequency_penalty or params.presence_penalty):
        times = torch.tensor(list(counts.values()), dtype=row.dtype, device=row.device)
        row[_ids(counts.keys(), row)] -= params.frequency_penalty * times + params.presence_penalty


def _ids(ids: Collection[int], row: Tensor) -> Tensor:
    return torch.tensor(list(ids), dtype=torch.long, device=row.device)
