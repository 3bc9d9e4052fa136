"""Every architecture of the family is quantized by watching its own modules, and loads again as written."""

import pytest
import torch

from minicpm.checkpoint import load, open_checkpoint
from minicpm.checkpoint.header import read_header
from minicpm.convert.quantizing.driver import quantize
from minicpm.convert.quantizing.events import LayerDone
from minicpm.convert.quantizing.flow import Flow
from minicpm.convert.quantizing.folding import apply, folds
from minicpm.convert.quantizing.layer import read_block
from minicpm.convert.quantizing.parts import source_of
from minicpm.convert.quantizing.recipe import Recipe
from minicpm.convert.quantizing.watching import moments, stages
from minicpm.convert.texts import read_sequences
from minicpm.layers.quant_embedding import QuantEmbedding
from minicpm.layers.quant_linear import QuantLinear
from minicpm.text.tokenizer import Tokenizer

NAMES = ["minicpm4-0.5b", "minicpm3-4b", "minicpm-moe-8x2b", "minicpm-sala", "minicpm-s-1b", "minicpm-v"]
CPU = torch.device("cpu")


def flow_of(source, text, tokens=700):
    tokenizer = Tokenizer.from_folder(source.checkpoint.path)
    return Flow(source, read_sequences(text, tokenizer, purpose="calibration", tokens=tokens), CPU)


def inner(source, index):
    prefix = f"{source.layer(index)}."
    return [name.removeprefix(prefix) for name in source.matrices() if name.startswith(prefix)]


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq+pgptq"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_what_loads(name, method, toy, text, tmp_path):
    source = toy(name)
    done = []
    recipe = Recipe(method=method, bits=4, group="row")
    folder = quantize(source, tmp_path / "out", recipe, calibration=text, tokens=600, watch=done.append)
    written = open_checkpoint(folder)
    errors = {n: e for event in done if isinstance(event, LayerDone) for n, e in event.errors.items()}
    assert len(errors) == len(source_of(source).matrices()) - 1
    assert all(0 < error < 0.5 for error in errors.values()), errors

    packed = load(written, backend="torch", prepare=False)
    plain = load(source, backend="torch", prepare=False)
    for module, matrix in written.packed.items():
        held = packed.get_submodule(module.removesuffix(".weight"))
        assert isinstance(held, QuantLinear | QuantEmbedding)
        stored = matrix.read(torch.bfloat16)
        assert torch.equal(held.packed.codes, stored.codes)
        assert torch.equal(held.packed.scales, stored.scales)
        plain.get_parameter(module).data = held.weight
    for tensor, info in written.tensors.items():
        plain.get_parameter(tensor).data = written.read(tensor)
        assert info.dtype == "BF16"
    ids = torch.arange(5, 45)
    assert torch.equal(packed.logits_for(ids), plain.logits_for(ids))


@pytest.mark.parametrize("name", NAMES)
def test_stages_hold_every_matrix_once_and_inputs_come_first(name, toy, text):
    source = source_of(toy(name))
    for index in range(len(source.config.layers)):
        block, names = read_block(source, index, CPU), inner(source, index)
        found = stages(block, names, next(flow_of(source, text).runs()))
        assert sorted(n for stage in found for n in stage) == sorted(names)
        place = {n: i for i, stage in enumerate(found) for n in stage}
        assert all(place[n] > 0 for n in names if n.endswith(("o_proj", "down_proj", "w2")))
        assert len({place[n] for n in names if n.endswith((".w1", ".w3"))}) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_moments_are_those_of_a_hook_on_each_module(name, toy, text):
    source = source_of(toy(name))
    block, names, flow = read_block(source, 1, CPU), inner(source, 1), flow_of(source, text)
    flow.advance(read_block(source, 0, CPU))
    seen = {n: [] for n in names}
    for n in names:
        block.get_submodule(n).register_forward_pre_hook(lambda m, args, n=n: seen[n].append(args[0]))
    with torch.no_grad():
        for run in flow.runs():
            block(run.h, run.step)
    expected = {n: torch.cat(x) for n, x in seen.items() if x}
    block = read_block(source, 1, CPU)
    for stage in stages(block, names, next(flow.runs())):
        found = moments(block, stage, flow.runs(), skipped=0)
        for n, held in found.items():
            x = expected[n]
            torch.testing.assert_close(
                held.second * held.rows, x.t() @ x, rtol=1e-3, atol=1e-2, msg=lambda m, n=n: f"{n}: {m}"
            )


@pytest.mark.parametrize("name", ["minicpm4-0.5b", "minicpm-moe-8x2b"])
def test_skipped_positions_are_in_no_moments(name, toy, text):
    source = source_of(toy(name))
    block, names, flow = read_block(source, 0, CPU), inner(source, 0), flow_of(source, text)
    before = {n: m.second * m.rows for n, m in moments(block, names, flow.runs(), skipped=4).items()}
    shift = torch.zeros(1)

    def disturb(module, args):
        """Rows of first positions become others, which must not be seen."""
        x = args[0].clone()
        x[shift.long()] = 99.0
        return (x,)

    block.mlp.register_forward_pre_hook(disturb, prepend=True)
    after = {n: m.second * m.rows for n, m in moments(block, names, flow.runs(), skipped=4).items()}
    for n in names:
        if n in before:
            torch.testing.assert_close(after[n], before[n], rtol=1e-4, atol=1e-3)
    whole = moments(block, names, flow.runs(), skipped=0)
    assert whole[names[0]].rows > 0


@pytest.mark.parametrize("name", NAMES)
def test_folding_scales_leaves_what_a_block_computes(name, toy, text):
    source = source_of(toy(name))
    for index in range(len(source.config.layers)):
        block = read_block(source, index, CPU)
        run = next(flow_of(source, text).runs())
        with torch.no_grad():
            before = block(run.h, run.step)
            places = folds(block)
            assert places
            for seed, fold in enumerate(places):
                width = block.get_submodule(fold.inputs[0]).weight.shape[1]
                random = torch.rand(width, generator=torch.Generator().manual_seed(seed)) + 0.5
                apply(block, fold, fold.alike(random), dtype=torch.float32)
            after = block(run.h, run.step)
        # Products of thousands of float32 numbers, of size one.
        torch.testing.assert_close(after, before, rtol=2e-4, atol=2e-4)


def test_a_gain_in_few_bits_folds_exactly(toy, text):
    source = source_of(toy())
    block = read_block(source, 0, CPU)
    fold = folds(block)[0]
    run = next(flow_of(source, text).runs())
    with torch.no_grad():
        before = block(run.h, run.step)
        apply(block, fold, torch.rand(64) + 0.5, dtype=torch.bfloat16)
        gain = block.input_layernorm.weight
        assert torch.equal(gain, gain.bfloat16().float())
        torch.testing.assert_close(block(run.h, run.step), before, rtol=2e-4, atol=2e-4)


def test_a_model_of_codes_is_quantized_again(toy, text, tmp_path):
    first = quantize(toy(), tmp_path / "8", Recipe(method="rtn", bits=8, group=32))
    again = quantize(open_checkpoint(first), tmp_path / "4", Recipe(method="rtn", bits=4, group=32))
    assert {m.read(torch.bfloat16).scheme.bits for m in open_checkpoint(again).packed.values()} == {4, 8}


def test_parts_are_shards_with_an_index(toy, tmp_path):
    folder = quantize(toy(), tmp_path / "out", Recipe(method="rtn", bits=3, group=32))
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) == 4
    assert any(name.endswith(".codes") for name in read_header(shards[1]))
