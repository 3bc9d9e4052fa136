"""Recipes refuse what cannot be done, all at once, and name what to do instead."""

import pytest

from minicpm.convert.quantizing.budget import Measured, choose
from minicpm.convert.quantizing.recipe import Matrix, Recipe, grids_of, named_bits
from minicpm.errors import BadParameter
from minicpm.quant.grid import Grid

MATRICES = {
    "model.layers.0.self_attn.q_proj": Matrix(64, 64),
    "model.layers.0.mlp.down_proj": Matrix(64, 96),
    "model.layers.1.self_attn.q_proj": Matrix(64, 64),
    "model.layers.1.mlp.down_proj": Matrix(64, 96),
    "model.embed_tokens": Matrix(320, 64, head=True),
}


def test_everything_is_rounded_and_the_head_to_8_bits():
    grids = grids_of(Recipe(bits=4, group=32), MATRICES)
    assert grids.pop("model.embed_tokens") == Grid(8, 64)
    assert set(grids.values()) == {Grid(4, 32)}


def test_row_groups_are_as_wide_as_their_rows():
    grids = grids_of(Recipe(bits=3, group="row", symmetric=False), MATRICES)
    assert grids["model.layers.0.mlp.down_proj"] == Grid(3, 96, symmetric=False)
    assert grids["model.layers.0.self_attn.q_proj"] == Grid(3, 64, symmetric=False)


def test_patterns_keep_and_change_and_the_last_counts():
    recipe = Recipe(
        bits=4,
        group=32,
        keep=("model.layers.1.*",),
        bits_for=(("*.down_proj", 3), ("model.layers.0.*_proj", 8), ("*.self_attn.*", 2)),
    )
    grids = grids_of(recipe, MATRICES)
    assert {name: grid.bits for name, grid in grids.items()} == {
        "model.layers.0.self_attn.q_proj": 2,
        "model.layers.0.mlp.down_proj": 8,
        "model.embed_tokens": 8,
    }
    assert named_bits(recipe, MATRICES)["model.layers.1.mlp.down_proj"] == 3


def test_the_head_is_called_by_its_role_also_where_it_is_tied():
    assert "model.embed_tokens" not in grids_of(Recipe(group=32, keep=("lm_head",)), MATRICES)
    grids = grids_of(Recipe(group=32, bits_for=(("lm_head", 4),)), MATRICES)
    assert grids["model.embed_tokens"] == Grid(4, 32)


@pytest.mark.parametrize(
    ("recipe", "parts"),
    [
        ({"bits": 5}, ["8, 4, 3, 2", "5"]),
        ({"group": 48}, ["48", "row"]),
        ({"bits": 4, "budget": 4.5}, ["Give one of them"]),
        ({"budget": 1.5}, ["1.5", "above 2"]),
        ({"bits": 7, "group": 5, "bits_for": (("*", 9),)}, ["7, 9", "Groups of 5"]),
        ({"method": "ternary", "bits": 4}, ["2 bits", "4 were asked"]),
        ({"method": "ternary", "group": 64, "budget": 3.0}, ["trained with", "neither a budget"]),
    ],
    ids=str,
)
def test_values_that_cannot_be_are_refused_together(recipe, parts):
    with pytest.raises(BadParameter) as refused:
        Recipe(**recipe)
    assert all(part in str(refused.value) for part in parts), refused.value


@pytest.mark.parametrize(
    ("recipe", "parts"),
    [
        ({"group": 64}, ["Groups of 64", "down_proj (96 weights a row)", "--group 32"]),
        ({"keep": ("*.donw_proj",), "group": 32}, ["*.donw_proj", "Did you mean '*.down_proj'"]),
        ({"bits_for": (("q_proj", 8),), "group": 32}, ["q_proj", "Did you mean '*.q_proj'"]),
        ({"keep": ("*",)}, ["nothing to quantize"]),
    ],
    ids=str,
)
def test_what_does_not_fit_the_model_is_refused(recipe, parts):
    with pytest.raises(BadParameter) as refused:
        grids_of(Recipe(**recipe), MATRICES)
    assert all(part in str(refused.value) for part in parts), refused.value


def test_rows_that_no_group_divides_are_to_be_groups():
    with pytest.raises(BadParameter, match="--group row"):
        grids_of(Recipe(), {"model.layers.0.self_attn.kv_b_proj": Matrix(8, 20)})


def measured(weights, losses):
    return Measured(weights, {bits: weights * bits // 8 for bits in losses}, losses)


def test_a_budget_goes_where_it_takes_most_loss_away():
    matrices = {
        "frail": measured(800, {2: 1.0, 4: 0.2, 8: 0.0}),
        "tough": measured(800, {2: 0.1, 4: 0.05, 8: 0.0}),
    }
    assert choose(matrices, 3.0) == {"frail": 4, "tough": 2}
    assert choose(matrices, 4.0) == {"frail": 4, "tough": 4}
    assert choose(matrices, 8.0) == {"frail": 8, "tough": 8}
    assert choose(matrices, 2.9) == {"frail": 2, "tough": 2}


@pytest.mark.parametrize("budget", [2.0, 2.5, 3.1, 4.7, 6.0])
def test_a_budget_is_never_passed_and_more_of_it_never_loses(budget):
    matrices = {str(i): measured(80 * (i + 1), {2: 1 / (i + 1), 3: 0.4, 4: 0.1, 8: 0.001}) for i in range(9)}

    def total(chosen):
        return sum(m.nbytes[chosen[n]] for n, m in matrices.items())

    weights = sum(m.weights for m in matrices.values())
    chosen, more = choose(matrices, budget), choose(matrices, budget + 0.5)
    assert 8 * total(chosen) <= budget * weights
    assert sum(m.loss[more[n]] for n, m in matrices.items()) <= sum(
        m.loss[chosen[n]] for n, m in matrices.items()
    )


def test_a_budget_below_the_fewest_bits_is_refused_with_them():
    with pytest.raises(BadParameter, match=r"take 2\.000"):
        choose({"a": measured(800, {2: 1.0, 4: 0.1})}, 1.9)
