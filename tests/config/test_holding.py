"""What rounded weights take is known from a config alone, to the byte."""

import pytest

from minicpm.checkpoint.building import blank
from minicpm.checkpoint.rounded import rounded_parts
from minicpm.config.dtypes import BITS
from minicpm.config.holding import absorbed_bytes, group_of, held_bytes, rounded_bytes
from minicpm.config.model import parameter_count
from minicpm.models.published import by_name, published
from minicpm.models.registry import parse


@pytest.mark.parametrize("weights", ["plain", "int8", "int4"])
@pytest.mark.parametrize("name", [row.name for row in published()])
def test_every_published_model_takes_what_its_modules_hold(name, weights):
    config = parse(by_name(name).raw)
    model = blank(config)
    parts = rounded_parts(model, weights) if weights in BITS else {}
    rounded = {
        name: rounded_bytes(model.get_submodule(name).weight.shape, bits) for name, bits in parts.items()
    }
    plain = sum(
        w.numel() for name, w in model.named_parameters() if name.removesuffix(".weight") not in rounded
    )
    decoded = absorbed_bytes(config, "bfloat16") if parts else 0
    assert held_bytes(config, "bfloat16", weights) == 2 * plain + sum(rounded.values()) + decoded


def test_the_small_model_takes_a_fourth_in_int4():
    config = parse(by_name("MiniCPM4-0.5B").raw)
    assert held_bytes(config, "bfloat16") == 867_747_840
    bits = {
        weights: 8 * held_bytes(config, "bfloat16", weights) / parameter_count(config) for weights in BITS
    }
    assert bits["int8"] == pytest.approx(8.13, abs=0.01)
    assert bits["int4"] == pytest.approx(4.92, abs=0.01)


def test_the_largest_group_that_divides_a_row_is_used():
    widths = (256, 192, 96, 32, 48, 33)
    assert [group_of(width, 8) for width in widths] == [128, 64, 32, 32, None, None]
    assert [group_of(width, 4) for width in widths] == [64, 64, 32, 32, None, None]
