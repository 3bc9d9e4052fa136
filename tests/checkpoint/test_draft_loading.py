"""Drafts load from either packaging, with the config's scales or given ones; what does not fit is refused."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from minicpm.checkpoint import load, load_draft, open_checkpoint
from minicpm.checkpoint.bins_child import write_ids
from minicpm.checkpoint.ranked_ids import read_ids
from minicpm.errors import (
    BadConfig,
    BadInput,
    BadParameter,
    LfsPointer,
    NotFinite,
    UnknownModel,
    UnreadConfig,
    UnsafeFormat,
    WeightMismatch,
)
from minicpm.testing import tiny_checkpoint, tiny_draft

EAGLE2 = ("eagle2-frspec", "eagle2-vllm")


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    folder = tiny_checkpoint("minicpm4-8b", tmp_path_factory.mktemp("target"), num_hidden_layers=6)
    return load(open_checkpoint(folder))


@pytest.fixture
def folder_of(target, tmp_path):
    """folder_of(kind, **changes of its config): a draft that a test may spoil."""
    return lambda kind, **changes: tiny_draft(kind, tmp_path / kind, target.config, **changes)


def edit(folder, **changes):
    path = folder / "config.json"
    raw = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in raw.items() if value is not None}))


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_both_packagings_of_eagle2_are_one_draft(target, folder_of):
    one, other = (load_draft(folder_of(kind), target, prepare=False) for kind in EAGLE2)
    assert type(one) is type(other)
    for (name, a), (same, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert name == same
        assert torch.equal(a, b), name


@pytest.mark.parametrize("kind", [*EAGLE2, "eagle3"])
@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_a_draft_has_the_bits_of_its_file(target, folder_of, kind, dtype):
    folder = folder_of(kind)
    draft, stored = (
        load_draft(folder, target, dtype=dtype, prepare=False),
        load_file(folder / "model.safetensors"),
    )
    assert draft.dtype == (target.dtype if dtype == "auto" else torch.bfloat16)
    for name, weight in draft.named_parameters():
        theirs = "model." + name.replace("layers.", "eagle_layers.") if kind == "eagle2-vllm" else name
        assert torch.equal(weight, stored[theirs].to(draft.dtype)), name


def test_a_bias_of_the_file_is_taken(target, folder_of):
    folder = folder_of("eagle2-frspec", bias=True)
    rewrite(folder, lambda tensors: tensors.update({"fc.bias": torch.arange(64.0)}))
    assert torch.equal(load_draft(folder, target).fc.bias, torch.arange(64.0))


SCALES = [
    ({}, {}, 1.4 / math.sqrt(32)),
    ({"mup_denominator": None}, {}, 1.4 / math.sqrt(6 + 1)),
    ({"mup_denominator": 8, "scale_depth": 2}, {}, 2 / math.sqrt(8)),
    ({"scale_depth": None}, {}, 1.0),
    ({}, {"residual_scale": 0.3}, 0.3),
]


@pytest.mark.parametrize(("changes", "options", "scale"), SCALES, ids=str)
def test_the_residual_scale_of_eagle2(target, folder_of, changes, options, scale):
    folder = folder_of("eagle2-vllm")
    edit(folder, **changes)
    assert load_draft(folder, target, **options).layers[0].residual_scale == pytest.approx(scale, rel=1e-12)


def test_eagle3_is_not_scaled_unless_said(target, folder_of):
    folder = folder_of("eagle3", scale_depth=1.4, mup_denominator=32)
    plain, scaled = load_draft(folder, target), load_draft(folder, target, residual_scale=0.2, tap_scale=0.5)
    assert (plain.midlayer.residual_scale, plain.tap_scale) == (1.0, 1.0)
    assert (scaled.midlayer.residual_scale, scaled.tap_scale) == (0.2, 0.5)


def test_the_taps_of_eagle3_are_the_published_ones_or_those_of_the_config(target, folder_of):
    folder = folder_of("eagle3")
    assert load_draft(folder, target).taps == (1, 3, 5)
    edit(folder, eagle_config=None)
    assert load_draft(folder, target).taps == (2, 3, 3)


def test_offsets_give_the_targets_ids(target, folder_of):
    folder = folder_of("eagle3")
    draft, offsets = load_draft(folder, target), load_file(folder / "model.safetensors")["d2t"]
    found = draft.token_ids(torch.arange(40))
    assert found.tolist() == [i + int(offset) for i, offset in enumerate(offsets)]
    guessed = load_file(folder / "model.safetensors")["t2d"].nonzero()[:, 0]
    assert found.tolist() == guessed.tolist()


def test_a_draft_of_the_whole_vocabulary_needs_no_offsets(target, folder_of):
    folder = folder_of("eagle3", guesses=target.config.vocab)
    assert load_draft(folder, target).token_ids(torch.tensor([7])).tolist() == [7]
    rewrite(folder, lambda tensors: tensors.pop("d2t"))
    edit(folder, draft_vocab_size=None)
    assert load_draft(folder, target).vocabulary is None


@pytest.mark.parametrize("kind", [*EAGLE2, "eagle3"])
def test_every_tensor_that_does_not_fit_is_told_at_once(target, folder_of, kind):
    names = {"eagle2-frspec": "layers.0.", "eagle2-vllm": "model.eagle_layers.0.", "eagle3": "midlayer."}
    block = names[kind]

    def spoil(tensors):
        del tensors[block + "mlp.up_proj.weight"]
        tensors[block + "self_attn.q_proj.weight"] = torch.zeros(64, 5)
        tensors["surplus"] = torch.zeros(2)

    folder = folder_of(kind)
    rewrite(folder, spoil)
    with pytest.raises(WeightMismatch) as caught:
        load_draft(folder, target)
    for part in (
        f"1 missing: {block}mlp.up_proj.weight",
        "1 unexpected: surplus",
        f"{block}self_attn.q_proj.weight is",
    ):
        assert part in str(caught.value)


BAD_OFFSETS = {
    "missing": (None, "1 missing: d2t"),
    "short": (torch.zeros(3, dtype=torch.int64), r"d2t is \[3\], needed \[40\]"),
    "not whole": (torch.zeros(40), "not in an integer format: d2t is F32"),
    "out of range": (torch.full((40,), 10**6), "outside"),
    "ids instead of offsets": (torch.arange(40) * 3 % 40, "more than once"),
}


@pytest.mark.parametrize(("value", "why"), BAD_OFFSETS.values(), ids=BAD_OFFSETS)
def test_offsets_that_cannot_be_are_refused(target, folder_of, value, why):
    def spoil(tensors):
        tensors.pop("d2t")
        if value is not None:
            tensors["d2t"] = value

    folder = folder_of("eagle3")
    rewrite(folder, spoil)
    with pytest.raises(WeightMismatch, match=why):
        load_draft(folder, target)


def test_another_target_is_told_by_its_numbers(folder_of, target):
    folder = folder_of("eagle2-vllm", hidden_size=32, vocab_size=11, num_hidden_layers=2)
    with pytest.raises(
        BadConfig, match=r"hidden_size is 32, and the target's is 64.*vocab_size.*num_hidden_layers"
    ):
        load_draft(folder, target)


def test_config_keys_that_nobody_reads_are_refused(folder_of, target):
    with pytest.raises(UnreadConfig, match="deep_tree"):
        load_draft(folder_of("eagle3", deep_tree=3), target)


def test_taps_beyond_the_target_are_refused(folder_of, target):
    taps = {"eagle_aux_hidden_state_layer_ids": [1, 6, 9]}
    with pytest.raises(BadConfig, match=r"layers \[6, 9\], and the target has 6 layers"):
        load_draft(folder_of("eagle3", eagle_config=taps), target)


def test_a_folder_without_a_draft_names_the_known_packagings(target, tmp_path):
    tiny_checkpoint("minicpm4-8b", tmp_path)
    with pytest.raises(UnknownModel, match=r"midlayer\.\*"):
        load_draft(tmp_path, target)


def test_weights_that_are_no_numbers_are_refused(target, folder_of):
    folder = folder_of("eagle2-frspec")
    rewrite(folder, lambda tensors: tensors["fc.weight"].fill_(torch.nan))
    with pytest.raises(NotFinite, match=r"fc\.weight"):
        load_draft(folder, target)


# Lists of frequent tokens.


def frequent(target):
    return [*range(30, 60), *target.config.eos]


FILES = [("eagle2-frspec", ".pt"), ("eagle2-frspec", ".json"), ("eagle2-vllm", ".safetensors")]


@pytest.mark.parametrize(("kind", "suffix"), FILES)
def test_frequent_tokens_are_read_from_every_format(target, folder_of, tmp_path, kind, suffix):
    path, ids = tmp_path / f"freq{suffix}", frequent(target)
    match suffix:
        case ".json":
            path.write_text(json.dumps(ids))
        case ".safetensors":
            save_file({"anything": torch.tensor(ids, dtype=torch.int32)}, path)
        case ".pt":
            torch.save(ids, path)
    draft = load_draft(folder_of(kind), target, vocabulary=path)
    assert draft.token_ids(torch.arange(len(ids))).tolist() == ids
    assert torch.equal(draft._head, target.head[ids])


def test_frequent_tokens_without_an_end_are_refused(target, folder_of, tmp_path):
    (tmp_path / "f.json").write_text(json.dumps(frequent(target)[:-1]))
    with pytest.raises(BadParameter, match="end a text"):
        load_draft(folder_of("eagle2-vllm"), target, vocabulary=tmp_path / "f.json")


def test_options_of_the_other_kind_are_refused(target, folder_of, tmp_path):
    with pytest.raises(BadParameter, match="vocabulary of its own"):
        load_draft(folder_of("eagle3"), target, vocabulary=tmp_path / "f.json")
    with pytest.raises(BadParameter, match="tap_scale"):
        load_draft(folder_of("eagle2-vllm"), target, tap_scale=1.0)


@pytest.mark.parametrize("text", ["{}", "[1, -2]", "[1.5]", "[true]", "nonsense", '{"ids": [1]}', "[[1]]"])
def test_a_json_file_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "f.json").write_text(text)
    with pytest.raises(BadInput, match="one list of token ids"):
        read_ids(tmp_path / "f.json")


@pytest.mark.parametrize(
    "tensors",
    [{}, {"a": torch.ones(3)}, {"a": torch.ones(3, 1, dtype=torch.int64)}],
    ids=["none", "float", "matrix"],
)
def test_a_tensor_of_something_else_is_refused(tmp_path, tensors):
    save_file(tensors, tmp_path / "f.safetensors")
    with pytest.raises(BadInput, match="one list of token ids"):
        read_ids(tmp_path / "f.safetensors")


class Spoiler:
    """What a hostile pickle would run."""

    def __reduce__(self):
        return (print, ("ran",))


def test_a_pickle_that_would_run_something_is_refused(tmp_path, capfd):
    torch.save(Spoiler(), tmp_path / "f.pt")
    with pytest.raises(UnsafeFormat):
        read_ids(tmp_path / "f.pt")
    assert "ran" not in capfd.readouterr().out


@pytest.mark.parametrize("content", [[4, 2, 9], torch.tensor([4, 2, 9])], ids=["list", "tensor"])
def test_what_the_child_writes_is_a_list_of_ids(tmp_path, content):
    assert write_ids(content, "source", str(tmp_path / "f.safetensors"))
    assert read_ids(tmp_path / "f.safetensors").tolist() == [4, 2, 9]


NO_IDS = {
    "words": [1, "a"],
    "negative": [1, -1],
    "truths": [True],
    "weights": {"a": torch.ones(1)},
    "floats": torch.ones(2),
    "matrix": torch.ones(2, 2, dtype=torch.int64),
}


@pytest.mark.parametrize("content", NO_IDS.values(), ids=NO_IDS)
def test_the_child_writes_nothing_else(tmp_path, content, capsys):
    assert not write_ids(content, "source", str(tmp_path / "f.safetensors"))
    assert "other than one list of token ids" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_files_of_ids_that_are_not_there_or_of_no_known_kind(tmp_path):
    with pytest.raises(BadInput, match="is no file"):
        read_ids(tmp_path / "nothing.json")
    (tmp_path / "f.txt").write_text("1")
    with pytest.raises(BadInput, match="format is not known"):
        read_ids(tmp_path / "f.txt")
    (tmp_path / "f.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(LfsPointer):
        read_ids(tmp_path / "f.pt")
