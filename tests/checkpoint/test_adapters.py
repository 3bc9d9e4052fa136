"""Adapters give what PEFT gives, beside the weights or merged; what does not fit is refused as a whole."""

import copy
import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from minicpm.cache import Batch, Segment
from minicpm.checkpoint import convert_bin, load, open_checkpoint
from minicpm.checkpoint.adapters import attach, detach, merge, open_adapter
from minicpm.checkpoint.adapters.fitting import text_projections
from minicpm.checkpoint.hub.listing import choose_files
from minicpm.checkpoint.hub.names import parse_name
from minicpm.errors import (
    BadConfig,
    BadParameter,
    LfsPointer,
    NotACheckpoint,
    NotFinite,
    TruncatedFile,
    UnsafeFormat,
    WeightMismatch,
)
from minicpm.testing import tiny_adapter, tiny_checkpoint

# Relative to the largest logit. The same float32 sums in another order over three or four layers; measured
# at most 4e-6.
FLOAT32 = 1e-5

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LATENT = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
FORWARD = ("gate_proj", "up_proj", "down_proj")
TARGETS = {
    "minicpm5-1b": ATTENTION + FORWARD,
    "minicpm4-0.5b": ("q_proj", "v_proj"),
    "minicpm-v": ("v_proj", "gate_proj"),
    "minicpm-s-1b": ("k_proj", *FORWARD),
    "minicpm3-4b": LATENT + FORWARD,
    "minicpm-sala": (*ATTENTION, "o_gate", "z_proj", *FORWARD),
}
SETTINGS = {
    "alpha over r": {},
    "rslora": {"use_rslora": True, "lora_alpha": 3},
    "dora": {"use_dora": True},
    "dora and rslora": {"use_dora": True, "use_rslora": True},
    "other alphas": {"alpha_pattern": {"v_proj": 5.5, "layers.1.self_attn.q_proj": 1}},
}
EVERY_FAMILY = pytest.mark.parametrize("family", TARGETS)
PREPARED = pytest.mark.parametrize("prepare", [False, True], ids=["unprepared", "prepared"])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """made(family) -> folder of a toy checkpoint; made(family, name, **settings) -> of an adapter of it."""
    folders = {}

    def make(family, name=None, **settings):
        key = json.dumps([family, name, settings])
        if key not in folders:
            path = tmp_path_factory.mktemp("made")
            if name is None:
                folders[key] = tiny_checkpoint(family, path)
            else:
                targets = settings.pop("targets", TARGETS[family])
                folders[key] = tiny_adapter(path, make(family), targets, seed=len(name), **settings)
        return folders[key]

    return make


def decoder_of(folder, *, prepare, dtype="float32"):
    return load(open_checkpoint(folder), dtype=dtype, prepare=prepare)


def ids_of(decoder, count, seed=0):
    return torch.randint(decoder.config.vocab, (count,), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits_of(decoder, ids, adapter=None):
    return decoder.logits(decoder(Batch(ids, (Segment(None, 0, len(ids), adapter),))))


def assert_same(found, wanted, bound=FLOAT32):
    difference = ((found - wanted).abs().max() / wanted.abs().max()).item()
    assert difference <= bound, f"relative difference {difference:.2e} over {bound:.2e}"


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(folder, change):
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


@pytest.fixture
def own(made, tmp_path):
    """An adapter of minicpm5-1b that a test may spoil."""
    return tiny_adapter(tmp_path / "own", made("minicpm5-1b"))


@pytest.fixture(scope="module")
def plain(made):
    """A decoder that no test may change."""
    return decoder_of(made("minicpm5-1b"), prepare=True)


@EVERY_FAMILY
@PREPARED
def test_an_adapter_beside_the_weights_gives_the_logits_of_merged_ones_written_out(made, family, prepare):
    adapter = open_adapter(made(family, "one"))
    decoder = decoder_of(made(family), prepare=prepare)
    attach(decoder, "one", adapter)
    summed = decoder_of(made(family), prepare=False)
    for name, projection in text_projections(summed).items():
        if (a := f"base_model.model.{name}.lora_A.weight") in adapter.tensors:
            tensors = load_file(adapter.path / "adapter_model.safetensors")
            with torch.no_grad():
                projection.weight += 2 * tensors[a.replace("_A.", "_B.")] @ tensors[a]
    ids = ids_of(decoder, 40)
    assert_same(logits_of(decoder, ids, "one"), logits_of(summed, ids))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@EVERY_FAMILY
def test_every_way_of_loading_gives_what_peft_gives(made, family, settings):
    folder = made(family, "one", **settings)
    decoder = decoder_of(made(family), prepare=True)
    ids = ids_of(decoder, 40)
    wanted = with_peft(decoder_of(made(family), prepare=False), folder, ids)
    attach(decoder, "one", open_adapter(folder))
    assert_same(logits_of(decoder, ids, "one"), wanted)
    merged = decoder_of(made(family), prepare=True)
    merge(merged, open_adapter(folder))
    assert_same(logits_of(merged, ids), wanted)


def with_peft(decoder, folder, ids):
    """The logits of the decoder's own modules, with the adapter loaded into them by PEFT."""
    peft = pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.PeftModel.from_pretrained(decoder, str(folder)).eval()
    with torch.no_grad():
        return wrapped.base_model.model.logits_for(ids)


def test_a_folder_that_peft_saved_gives_the_logits_of_transformers(made, tmp_path):
    """The whole way: trained by others on others' modules, saved by PEFT, loaded here."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(made("minicpm5-1b"), dtype=torch.float32)
        config = peft.LoraConfig(
            r=3,
            lora_alpha=7,
            use_dora=True,
            target_modules=["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"],
            rank_pattern={"down_proj": 2, "layers.1.self_attn.q_proj": 5},
            alpha_pattern={"v_proj": 2},
            layers_to_transform=[0, 1],
        )
        wrapped = peft.get_peft_model(model, config)
        torch.manual_seed(0)
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        wrapped.save_pretrained(tmp_path / "saved")
    decoder = decoder_of(made("minicpm5-1b"), prepare=True)
    attach(decoder, "saved", open_adapter(tmp_path / "saved"))
    ids = ids_of(decoder, 30)
    with torch.no_grad():
        wanted = wrapped.eval()(ids[None]).logits[0]
    assert_same(logits_of(decoder, ids, "saved"), wanted)


@EVERY_FAMILY
@PREPARED
def test_one_batch_mixes_adapters_and_leaves_the_base_its_bits(made, family, prepare):
    """Through the cache, step by step, with rows of all adapters between each other."""
    untouched, decoder = (decoder_of(made(family), prepare=prepare) for _ in range(2))
    targets = TARGETS[family] if prepare else tuple(t for t in TARGETS[family] if t != "kv_b_proj")
    for name in ("one", "three"):
        attach(decoder, name, open_adapter(made(family, name, targets=targets, use_dora=name == "one")))
    users = [None, "one", "three", None, "one"]
    texts = [ids_of(decoder, 70 + 3 * i, seed=i) for i in range(len(users))]
    found = run(decoder, texts, users)
    for hidden, wanted, text, user in zip(
        found, run(untouched, texts, [None] * 5), texts, users, strict=True
    ):
        if user is None:
            assert torch.equal(hidden, wanted)
        else:
            with torch.no_grad():
                alone = decoder(Batch(text, (Segment(None, 0, len(text), user),)))
            assert_same(hidden, alone)
            assert (hidden - wanted).abs().max() > 0.01


@torch.no_grad()
def run(decoder, texts, users):
    """Hidden states of every text, all fed together in a few uneven steps; only some rows are asked for."""
    cache = decoder.new_cache(20)
    handles, parts = [cache.open() for _ in texts], [[] for _ in texts]
    for first, last in [(0, 5), (5, 64), (64, 65), (65, 200)]:
        pieces = [text[first:last] for text in texts]
        segments = []
        for handle, piece, user in zip(handles, pieces, users, strict=True):
            assert cache.reserve(handle, len(piece))
            segments.append(Segment(handle, first, len(piece), user))
        ids = torch.cat(pieces)
        hidden = decoder(Batch(ids, tuple(segments), cache, rows=torch.arange(len(ids))))
        for part, piece in zip(parts, hidden.split([len(piece) for piece in pieces]), strict=True):
            part.append(piece)
    return [torch.cat(part) for part in parts]


def test_a_detached_adapter_is_forgotten(made, own):
    decoder = decoder_of(made("minicpm5-1b"), prepare=True)
    ids = ids_of(decoder, 9)
    before = logits_of(decoder, ids)
    attach(decoder, "rag", open_adapter(own))
    detach(decoder, "rag")
    assert torch.equal(logits_of(decoder, ids), before)
    for action in (lambda: detach(decoder, "rag"), lambda: logits_of(decoder, ids, "rag")):
        with pytest.raises(BadParameter, match="no adapter 'rag'"):
            action()
    attach(decoder, "rag", open_adapter(own))


@pytest.mark.parametrize("name", ["", "rag"])
def test_a_name_in_use_or_empty_is_refused(made, own, name):
    decoder = decoder_of(made("minicpm5-1b"), prepare=True)
    attach(decoder, "rag", open_adapter(own))
    with pytest.raises(BadParameter, match=r"in use|empty"):
        attach(decoder, name, open_adapter(own))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_merge_is_the_float32_sum_cast_and_says_what_rounding_took(made, own, dtype):
    decoder = decoder_of(made("minicpm5-1b"), prepare=True, dtype=dtype)
    before = {name: weight.clone() for name, weight in decoder.published_state()}
    report = merge(decoder, open_adapter(own))
    tensors = load_file(own / "adapter_model.safetensors")
    for name, weight in decoder.published_state():
        wanted, stem = before[name], "base_model.model." + name.removesuffix(".weight")
        if f"{stem}.lora_A.weight" in tensors:
            wanted = wanted.float() + 2 * tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"]
        assert torch.equal(weight, wanted.to(weight.dtype)), name
    assert report.change > 1
    # Logits are of the size of 10; float32 gave 1e-5, float16 0.01, bfloat16 0.1.
    assert report.difference <= {"float32": 1e-4, "float16": 0.1, "bfloat16": 1.0}[dtype]


def test_a_merge_that_rounding_swallows_is_noted(made, tmp_path):
    decoder = decoder_of(made("minicpm5-1b"), prepare=True, dtype="bfloat16")
    faint = tiny_adapter(tmp_path / "faint", made("minicpm5-1b"), lora_alpha=1e-3)
    assert "Rounding" in merge(decoder, open_adapter(faint)).notes[0]
    assert merge(decoder_of(made("minicpm5-1b"), prepare=True), open_adapter(faint)).notes == ()


def test_an_adapter_that_overflows_is_refused_before_anything_changes(made, own):
    decoder = decoder_of(made("minicpm5-1b"), prepare=True, dtype="float16")
    before = copy.deepcopy(decoder.state_dict())
    edit(own, lora_alpha=1e9)
    with pytest.raises(NotFinite, match="overflow"):
        merge(decoder, open_adapter(own))
    assert all(torch.equal(before[name], weight) for name, weight in decoder.state_dict().items())


def test_every_difference_from_the_model_is_told_at_once(plain, own):
    def spoil(tensors):
        first = "base_model.model.model.layers.0."
        del tensors[first + "self_attn.q_proj.lora_B.weight"]
        tensors["base_model.model.lm_head.lora_A.weight"] = torch.zeros(4, 64)
        tensors[first + "self_attn.v_proj.lora_A.weight"] = torch.zeros(4, 63)
        tensors[first + "mlp.down_proj.lora_A.weight"] = torch.zeros(4, 96, dtype=torch.int64)

    rewrite(own, spoil)
    with pytest.raises(WeightMismatch) as caught:
        attach(plain, "x", open_adapter(own))
    message = str(caught.value)
    for part in (
        "1 missing",
        "1 unexpected",
        "lm_head",
        "[4 x 63], needed [4 x 64]",
        "down_proj.lora_A.weight is I64",
    ):
        assert part in message
    assert plain.adapters.names == set()


def test_an_adapter_for_another_model_is_refused_and_names_its_own(plain, made):
    with pytest.raises(WeightMismatch, match="was made for"):
        attach(plain, "x", open_adapter(made("minicpm3-4b", "one")))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_numbers_that_are_none_are_refused_by_name(plain, own, value):
    def spoil(tensors):
        tensors["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"][3, 1] = value

    rewrite(own, spoil)
    for action in (merge, lambda decoder, adapter: attach(decoder, "x", adapter)):
        with pytest.raises(NotFinite, match=r"1 tensors .*layers\.1\.mlp\.down_proj\.lora_B"):
            action(plain, open_adapter(own))


REFUSED = {
    "peft_type": ("LOHA", "only LoRA"),
    "bias": ("all", "biases"),
    "lora_bias": (True, "biases"),
    "modules_to_save": (["embed_tokens"], "whole modules"),
    "fan_in_fan_out": (True, "transposed"),
    "init_lora_weights": ("pissa", "changed the base weights"),
    "layer_replication": ([[0, 2]], "nothing here reads layer_replication"),
    "trainable_token_indices": ([1], "nothing here reads trainable_token_indices"),
    "use_qalora": (True, "nothing here reads use_qalora"),
    "some_new_kind": ({"a": 1}, "nothing here reads some_new_kind"),
    "r": (0, "r is 0"),
    "lora_alpha": ("a", "lora_alpha"),
    "target_modules": ([], "target_modules is missing"),
    "exclude_modules": ("(?=x)", "exclude_modules"),
    "layers_to_transform": ("all", "layers_to_transform"),
    "layers_pattern": ("blocks", "layers_pattern"),
    "rank_pattern": ({".*q.*": 4}, "rank_pattern"),
    "alpha_pattern": ({"q_proj": -1}, "alpha_pattern"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_not_supported_is_refused_by_name(own, key):
    value, why = REFUSED[key]
    edit(own, **{key: value})
    with pytest.raises(BadConfig, match=why):
        open_adapter(own)


def test_all_that_is_not_supported_is_told_at_once(own):
    edit(own, **{key: value for key, (value, _) in REFUSED.items()})
    with pytest.raises(BadConfig) as caught:
        open_adapter(own)
    # Those of the same kind share a sentence.
    assert all(why.removeprefix("nothing here reads ") in str(caught.value) for _, why in REFUSED.values())


def test_a_variant_that_is_switched_off_is_no_reason_to_refuse(own):
    edit(own, some_new_kind=None, other=False, more={}, lora_dropout=0.1, task_type="CAUSAL_LM", revision="x")
    open_adapter(own)


NAMES = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.0.mlp.down_proj"]


@pytest.mark.parametrize(
    ("settings", "accepted"),
    [
        ({"target_modules": ["q_proj"]}, NAMES[:2]),
        ({"target_modules": ["self_attn.q_proj"]}, NAMES[:2]),
        ({"target_modules": ["proj"]}, []),
        ({"target_modules": [NAMES[2]]}, NAMES[2:]),
        ({"target_modules": "all-linear"}, NAMES),
        ({"target_modules": "all-linear", "exclude_modules": ["down_proj"]}, NAMES[:2]),
        ({"target_modules": ["q_proj"], "layers_to_transform": 1}, NAMES[1:2]),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "layers"}, NAMES[:1]),
        ({"target_modules": ".*q_proj"}, NAMES[:2]),
        ({"target_modules": ".*_proj$"}, NAMES),
        ({"target_modules": r".*\.self_attn\.(q_proj|v_proj)"}, NAMES[:2]),
        ({"target_modules": r".*\.(?:q_proj|down_proj)$"}, NAMES),
    ],
    ids=str,
)
def test_targets_are_what_peft_takes_them_for(own, settings, accepted):
    edit(own, **settings)
    targets = open_adapter(own).settings.targets
    assert [name for name in NAMES if targets.accepts(name)] == accepted


def test_any_other_expression_is_not_run_and_the_file_says_what_it_has(made, own):
    edit(own, target_modules=r"(.*)*\.(?!k_proj).*proj")
    adapter = open_adapter(own)
    assert "not run" in adapter.settings.notes[0]
    decoder = decoder_of(made("minicpm5-1b"), prepare=True)
    attach(decoder, "x", adapter)
    edit(own, target_modules=["q_proj", "v_proj", "down_proj"])
    attach(decoder, "y", open_adapter(own))
    ids = ids_of(decoder, 9)
    assert torch.equal(logits_of(decoder, ids, "x"), logits_of(decoder, ids, "y"))


def test_another_base_model_is_noted_and_no_error(own):
    edit(own, base_model_name_or_path="openbmb/MiniCPM5-1B")
    settings = open_adapter(own).settings
    assert settings.notes_for("minicpm5-1b") == ()
    assert "openbmb/MiniCPM5-1B" in settings.notes_for("openbmb/MiniCPM4-0.5B")[0]


def test_magnitudes_under_their_older_name_are_found(made, tmp_path):
    folder = tiny_adapter(tmp_path / "dora", made("minicpm5-1b"), use_dora=True)

    def rename(tensors):
        for name in [n for n in tensors if n.endswith("magnitude_vector")]:
            tensors[name + ".weight"] = tensors.pop(name)

    rewrite(folder, rename)
    attach(decoder_of(made("minicpm5-1b"), prepare=True), "x", open_adapter(folder))


def test_pickles_are_refused_with_the_way_out(own):
    (own / "adapter_model.safetensors").rename(own / "adapter_model.bin")
    with pytest.raises(UnsafeFormat, match="minicpm convert"):
        open_adapter(own)


def test_a_converted_adapter_is_the_one_that_was_pickled(own, tmp_path):
    tensors = load_file(own / "adapter_model.safetensors")
    (own / "adapter_model.safetensors").unlink()
    torch.save(tensors, own / "adapter_model.bin")
    converted = open_adapter(convert_bin(own, tmp_path / "safe"))
    assert converted.settings.rank == 4
    found = load_file(converted.path / "adapter_model.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_an_adapter_is_pulled_without_the_tokenizer_code_beside_it():
    files = ["adapter_config.json", "adapter_model.safetensors", "README.md", "run.py", "training_args.bin"]
    chosen = choose_files(parse_name("org/adapter"), files)
    assert chosen == ["README.md", "adapter_config.json", "adapter_model.safetensors"]


def test_experts_take_an_adapter_merged_only(tmp_path):
    """Their rows are not those of the batch, so beside the weights it is refused; merged it is exact."""
    folder = tiny_checkpoint("minicpm-moe-8x2b", tmp_path / "model")
    adapter = open_adapter(tiny_adapter(tmp_path / "adapter", folder, ("w1", "w2", "q_proj")))
    for prepare in (True, False):
        decoder = decoder_of(folder, prepare=prepare)
        before = logits_of(decoder, ids_of(decoder, 9))
        with pytest.raises(BadParameter, match=r"experts\.0\.w1.*merge it into the model"):
            attach(decoder, "x", adapter)
        assert torch.equal(logits_of(decoder, ids_of(decoder, 9)), before)
    with pytest.raises(BadParameter, match="prepare=False"):
        merge(decoder_of(folder, prepare=True), adapter)
    decoder = decoder_of(folder, prepare=False)
    ids = ids_of(decoder, 20)
    wanted = with_peft(decoder_of(folder, prepare=False), adapter.path, ids)
    merge(decoder, adapter)
    assert_same(logits_of(decoder, ids), wanted)


def test_damaged_folders_are_refused(own, tmp_path):
    with pytest.raises(NotACheckpoint, match="does not exist"):
        open_adapter(tmp_path / "nowhere")
    weights = own / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4])
    with pytest.raises(TruncatedFile):
        open_adapter(own)
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(LfsPointer):
        open_adapter(own)
    weights.unlink()
    with pytest.raises(NotACheckpoint, match="has no adapter_model"):
        open_adapter(own)
    (own / "adapter_config.json").unlink()
    with pytest.raises(NotACheckpoint, match="has no adapter_config"):
        open_adapter(own)
