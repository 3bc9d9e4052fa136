"""The sampler draws from the distribution it promises, by seed and position alone."""

import math
from array import array
from collections.abc import Sequence as Listing
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minicpm.engine.logprobs import scores
from minicpm.engine.penalties import adjusted
from minicpm.engine.request import Sequence
from minicpm.engine.sampler import choose, invert, kept_weights, uniform
from minicpm.engine.sampling import SamplingParams


def sequence(
    *, tokens: Listing[int] = (1, 2), prompt: int = 2, seed: int = 0, ends: Listing[int] = (), **params: Any
) -> Sequence:
    return Sequence(
        order=(1, 0),
        tokens=array("i", tokens),
        prompt_length=prompt,
        params=SamplingParams(**params),
        limit=1000,
        stop_ids=frozenset(ends),
        seed=seed,
    )


def row(size: int = 12, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 2


def one(logits: Tensor, **options: Any) -> int | None:
    return choose(logits[None], [sequence(**options)])[0].token


def test_greedy_takes_the_lowest_id_on_ties() -> None:
    assert one(torch.tensor([0.0, 3.0, 3.0, 1.0]), temperature=0) == 1
    wide = torch.zeros(73448)
    wide[[50_001, 70_000]] = 1.0
    assert one(wide, temperature=0) == 50_001
    assert one(torch.zeros(73448), temperature=0) == 0


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 4},
        {"top_p": 0.7},
        {"min_p": 0.2},
        {"temperature": 1.7, "top_k": 6, "top_p": 0.9, "min_p": 0.05},
    ],
)
def test_frequencies_follow_the_distribution(params: dict[str, Any]) -> None:
    logits, draws = row(), 4000
    expected = naive_distribution(logits.tolist(), **params)
    drawn = [invert(kept_weights(logits, SamplingParams(**params)), uniform(7, i)) for i in range(draws)]
    counts = [drawn.count(token) for token in range(len(logits))]
    assert all(c == 0 for c, p in zip(counts, expected, strict=True) if p == 0)
    squares = [(c - draws * p) ** 2 / (draws * p) for c, p in zip(counts, expected, strict=True) if p > 0]
    freedom = len(squares) - 1
    # Four standard deviations above the mean of the chi-square distribution.
    assert sum(squares) < freedom + 4 * math.sqrt(2 * max(freedom, 1))


def naive_distribution(
    logits: list[float], temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> list[float]:
    """The filters one after another, in plain Python, each over what the one before has left."""
    kept = dict(enumerate(math.exp(x / temperature) for x in logits))
    if top_k:
        kept = dict(sorted(kept.items(), key=lambda item: -item[1])[:top_k])
    total, sum_so_far, nucleus = sum(kept.values()), 0.0, {}
    for token, weight in sorted(kept.items(), key=lambda item: -item[1]):
        if sum_so_far < top_p * total:
            nucleus[token] = weight
        sum_so_far += weight
    nucleus = {t: w for t, w in nucleus.items() if w >= min_p * max(nucleus.values())}
    total = sum(nucleus.values())
    return [nucleus.get(token, 0.0) / total for token in range(len(logits))]


@settings(deadline=None)
@given(
    st.integers(0, 50),
    st.sampled_from([0.3, 1.0, 2.5]),
    st.integers(0, 14),
    st.sampled_from([0.05, 0.5, 0.95, 1.0]),
    st.sampled_from([0.0, 0.1, 1.0]),
)
def test_filters_equal_the_naive_ones(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = row(seed=seed)
    params = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    weights = kept_weights(logits, SamplingParams(**params))
    expected = torch.tensor(naive_distribution(logits.tolist(), **params), dtype=torch.float64)
    torch.testing.assert_close(weights / weights.sum(), expected, rtol=1e-6, atol=1e-12)


def test_a_nucleus_wider_than_the_candidates_is_found_by_sorting_everything() -> None:
    logits = row(size=5000)
    weights = kept_weights(logits, SamplingParams(top_p=0.999))
    expected = torch.tensor(naive_distribution(logits.tolist(), top_p=0.999), dtype=torch.float64)
    assert (weights > 0).sum() > 1024
    torch.testing.assert_close(weights / weights.sum(), expected, rtol=1e-5, atol=1e-12)


def test_tied_tokens_stay_or_go_together() -> None:
    logits = torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0])
    assert kept_weights(logits, SamplingParams(top_k=2)).nonzero().flatten().tolist() == [1, 2, 3]
    assert kept_weights(logits, SamplingParams(top_p=0.1)).nonzero().flatten().tolist() == [1, 2, 3]


def test_a_tiny_temperature_is_greedy_and_a_large_one_flat() -> None:
    logits = row()
    assert one(logits, temperature=1e-300) == int(logits.argmax())
    assert kept_weights(logits, SamplingParams(temperature=100)).min() > 0.9


def test_a_draw_depends_on_seed_and_position_and_not_on_the_batch() -> None:
    rows = torch.stack([row(200, i) for i in range(8)])
    batch = [sequence(seed=i, tokens=range(1, 3 + i)) for i in range(8)]
    together = [draw.token for draw in choose(rows, batch)]
    assert together == [choose(rows[i : i + 1], [batch[i]])[0].token for i in range(8)]
    assert together[::-1] == [draw.token for draw in choose(rows.flip(0), batch[::-1])]


def test_seeds_and_positions_give_unlike_numbers_in_the_unit_interval() -> None:
    numbers = {uniform(seed, position) for seed in (0, 1, 2**64 - 1) for position in range(100)}
    assert len(numbers) == 300
    assert all(0 <= u < 1 for u in numbers)


def test_rounding_up_to_the_total_still_gives_a_kept_token() -> None:
    assert invert(torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64), 1.0) == 1


def test_penalties_equal_a_naive_reference() -> None:
    logits = row()
    written = [3, 3, 5, 3]
    s = sequence(
        tokens=[1, 2, *written],
        prompt=2,
        repetition_penalty=1.3,
        presence_penalty=0.4,
        frequency_penalty=0.25,
        logit_bias={0: 1.5, 3: -2.0},
    )
    expected = logits.tolist()
    expected[0] += 1.5
    expected[3] -= 2.0
    for token in (1, 2, 3, 5):
        expected[token] = expected[token] / 1.3 if expected[token] > 0 else expected[token] * 1.3
    expected[3] -= 3 * 0.25 + 0.4
    expected[5] -= 0.25 + 0.4
    torch.testing.assert_close(adjusted(logits, s), torch.tensor(expected))


def test_logits_are_left_as_they_are() -> None:
    logits = row()
    before = logits.clone()
    one(logits, repetition_penalty=2.0, logit_bias={1: -5.0}, temperature=0.5)
    assert logits.equal(before)


def test_stop_ids_cannot_be_drawn_before_min_tokens() -> None:
    logits = torch.tensor([9.0, 1.0, 0.0])
    assert one(logits, temperature=0, min_tokens=2, ends=[0]) == 1
    assert one(logits, temperature=0, min_tokens=2, ends=[0], tokens=[1, 2, 1, 1], prompt=2) == 0


def test_a_forbidden_token_is_never_drawn() -> None:
    logits = torch.zeros(3)
    drawn = {one(logits, seed=seed, logit_bias={0: -math.inf}) for seed in range(50)}
    assert drawn == {1, 2}


def test_no_token_is_drawn_from_broken_or_empty_rows() -> None:
    assert one(torch.tensor([0.0, math.nan])) is None
    assert one(torch.tensor([0.0, math.inf]), temperature=0) is None
    assert one(torch.zeros(2), logit_bias={0: -math.inf, 1: -math.inf}) is None


def test_scores_are_log_softmax_with_the_likeliest_alternatives() -> None:
    logits = torch.stack([row(20, 1), row(20, 2)])
    expected = logits.log_softmax(-1)
    for i, score in enumerate(scores(logits, [4, 7], 3)):
        assert score.logprob == pytest.approx(float(expected[i, (4, 7)[i]]))
        best = expected[i].sort(descending=True)
        assert [t for t, _ in score.top] == best.indices[:3].tolist()
        assert [p for _, p in score.top] == pytest.approx(best.values[:3].tolist())


def test_scores_are_those_before_penalties_and_filters() -> None:
    logits = row()
    draw = choose(logits[None], [sequence(logprobs=0, top_k=1, temperature=0.1, logit_bias={2: 50.0})])[0]
    assert draw.token == 2
    assert draw.score is not None
    assert draw.score.logprob == pytest.approx(float(logits.log_softmax(-1)[2]))


def test_more_alternatives_than_tokens_are_cut_to_the_vocabulary() -> None:
    assert len(scores(row()[None], [0], 100)[0].top) == 12
