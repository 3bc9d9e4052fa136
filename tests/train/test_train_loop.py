"""Batches, parameter groups and the loop: exact masks, muP scales, and resuming without a trace."""

import random

import pytest
import torch

from minicpm.config import GQA, DefaultRope, Dense, LayerConfig, ModelConfig
from minicpm.models.decoder import Decoder
from minicpm.train import groups, loop
from minicpm.train.batches import Encoded, pack
from minicpm.train.schedule import WSD
from minicpm.train.state import latest_state, load_state, save_state

CONFIG = groups.OptimizerConfig()


def toy() -> Decoder:
    config = ModelConfig(
        family="minicpm",
        hidden=32,
        vocab=40,
        layers=(LayerConfig(GQA(2, 1, 16), Dense(48)),) * 2,
        rope=DefaultRope(10000.0, 16),
        context=128,
        norm_eps=1e-5,
        embed_scale=12.0,
        residual_scale=0.99,
        logit_scale=4.0,
        tied=True,
        dtype="float32",
        bos=1,
        eos=(2,),
        pad=None,
    )
    decoder = Decoder(config)
    groups.initialise(decoder, CONFIG, seed=3)
    return decoder


def samples(seed: int = 0) -> list[Encoded]:
    rng = random.Random(seed)
    lengths = [rng.randint(2, 60) for _ in range(30)]
    return [
        Encoded([(3 * i + n) % 40 for i in range(n)], [rng.random() < 0.5 for _ in range(n)]) for n in lengths
    ]


def test_packing_keeps_every_learned_target_and_no_other():
    given = samples()
    wanted = sorted(s.ids[i] for s in given for i in range(1, len(s.ids)) if s.learn[i])
    batches = list(pack(given, 256, longest=128, seed=1))
    assert sorted(t for b in batches for t in b.targets.tolist()) == wanted
    assert sum(b.tokens for b in batches) == sum(len(s.ids) for s in given)
    assert all(len(b.batch.ids) <= 256 for b in batches)


def test_packing_is_the_same_for_the_same_seed():
    one, two = (list(pack(samples(), 256, longest=128, seed=5)) for _ in range(2))
    assert all(torch.equal(a.batch.ids, b.batch.ids) for a, b in zip(one, two, strict=True))


def test_too_long_samples_are_left_out():
    assert list(pack([Encoded([1] * 50, [True] * 50)], 256, longest=49, seed=0)) == []


def test_packed_loss_equals_the_mean_over_separate_samples():
    decoder = toy()
    [batch] = pack(samples()[:4], 1024, longest=128, seed=0)
    packed = loop.step_loss(decoder, batch)
    total, count = 0.0, 0
    for sample in samples()[:4]:
        for one in pack([sample], 1024, longest=128, seed=0):
            if len(one.targets):
                total += loop.step_loss(decoder, one).item() * len(one.targets)
                count += len(one.targets)
    # bf16 autocast rounds activations to 8 bits of mantissa.
    assert packed.item() == pytest.approx(total / count, rel=1e-2)


def test_matrices_learn_slower_by_the_width_ratio_and_start_smaller():
    decoder = toy()
    by_matrix, elementwise = groups.optimizers(decoder, CONFIG)
    assert [g["base"] for g in by_matrix.param_groups] == [CONFIG.matrix_lr / 4]
    assert [g["base"] for g in elementwise.param_groups] == [CONFIG.base_lr] * 2
    grouped = [p for o in (by_matrix, elementwise) for g in o.param_groups for p in g["params"]]
    assert len(grouped) == len({id(p) for p in grouped}) == len(list(decoder.parameters()))
    assert decoder.model.layers[0].mlp.up_proj.weight.detach().std().item() == pytest.approx(0.05, rel=0.1)
    assert decoder.model.embed_tokens.weight.detach().std().item() == pytest.approx(0.1, rel=0.1)


def _run(decoder, steppers, schedule, *, start, stop):
    batches = [b for seed in range(20) for b in pack(samples(seed), 256, longest=128, seed=seed)]
    progress = loop.train(decoder, steppers, schedule, iter(batches[start:stop]), start=start)
    return [p.loss for p in progress]


def test_ten_and_ten_steps_equal_twenty_bit_for_bit(tmp_path):
    schedule = WSD(2, 12, 8)
    whole = toy()
    losses = _run(whole, groups.optimizers(whole, CONFIG), schedule, start=0, stop=20)
    half = toy()
    steppers = groups.optimizers(half, CONFIG)
    first = _run(half, steppers, schedule, start=0, stop=10)
    save_state(tmp_path, 10, half, steppers, {"at": 10})
    again = toy()
    resumed = groups.optimizers(again, CONFIG)
    step, info = load_state(latest_state(tmp_path), again, resumed)
    second = _run(again, resumed, schedule, start=step, stop=20)
    assert info == {"at": 10}
    assert first + second == losses
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_only_the_two_newest_states_are_kept_and_half_written_ones_do_not_count(tmp_path):
    decoder = toy()
    steppers = groups.optimizers(decoder, CONFIG)
    for step in (1, 2, 3):
        save_state(tmp_path, step, decoder, steppers, None)
    (tmp_path / ".part-1-step-0000009").mkdir()
    assert [p.name for p in sorted(tmp_path.glob("step-*"))] == ["step-0000002", "step-0000003"]
    assert latest_state(tmp_path).name == "step-0000003"


def test_training_lowers_the_loss():
    decoder = toy()
    losses = _run(decoder, groups.optimizers(decoder, CONFIG), WSD(2, 40, 0), start=0, stop=40)
    assert sum(losses[-8:]) < sum(losses[:8])
