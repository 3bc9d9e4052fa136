"""Models that see: published names, configs, and one result however a prompt with images is computed."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import minicpm
from minicpm.cache import Batch, Segment
from minicpm.checkpoint import load_decoder, save
from minicpm.checkpoint.building import blank
from minicpm.config import parameter_count
from minicpm.config.vision import Eva, FreshPositions, ResizedPositions, Siglip
from minicpm.errors import BadConfig, WeightMismatch
from minicpm.models.published import by_name
from minicpm.models.registry import parse
from minicpm.models.vision_decoder import VisionDecoder
from minicpm.testing import tiny_checkpoint, tiny_config

# Largest difference over largest logit: float32 sums of at most some hundred terms in another order.
FLOAT32 = 1e-5
# In bfloat16's rounding steps of 2^-8, over three blocks of the tower, the resampler and three layers.
BFLOAT16 = 16 * 2**-8
NAMES = ["minicpm-v", "omnilmm-12b"]
EITHER = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: tiny_checkpoint(name, tmp_path_factory.mktemp("seeing")) for name in NAMES}


@pytest.fixture(scope="module")
def seeing(folders):
    """seeing(name) -> a prepared decoder; the same one each time."""
    made = {}

    def load(name):
        if name not in made:
            made[name] = load_decoder(folders[name])
        return made[name]

    return load


def pixels(config, count=1, seed=0):
    size = config.vision.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


class Prompt:
    """Ids with one image after each of `starts`, and what enters the first layer for them."""

    def __init__(self, decoder, *, starts=(3,), length=40, seed=0):
        config = decoder.config
        queries = config.vision.resampler.queries
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(config.vocab, (length,), generator=generator)
        self.rows = torch.cat([torch.arange(start, start + queries) for start in starts])
        with torch.no_grad():
            self.vectors = decoder.see(pixels(config, len(starts), seed)).flatten(0, 1)
            self.embedded = decoder.embed_seen(self.ids, self.rows, self.vectors)


@torch.no_grad()
def whole(decoder, *prompts):
    """Logits of all prompts, packed, without a cache."""
    batch = Batch(
        torch.cat([p.ids for p in prompts]),
        tuple(Segment(None, 0, len(p.ids)) for p in prompts),
        embedded=torch.cat([p.embedded for p in prompts]),
    )
    return decoder.logits(decoder(batch))


@torch.no_grad()
def in_chunks(decoder, prompt, sizes):
    """Logits of a prompt computed chunk by chunk over a cache."""
    cache = decoder.new_cache(4)
    seq, start, found = cache.open(), 0, []
    for size in sizes:
        part = slice(start, start + size)
        assert cache.reserve(seq, size)
        batch = Batch(prompt.ids[part], (Segment(seq, start, size),), cache, embedded=prompt.embedded[part])
        found.append(decoder.logits(decoder(batch)))
        start += size
    assert start == len(prompt.ids)
    return torch.cat(found)


def difference(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


# --- configs ------------------------------------------------------------------------------------------------


def test_minicpm_v_reads_its_published_config():
    config = parse(by_name("MiniCPM-V").raw)
    vision = config.vision
    assert (config.family, config.embed_scale, config.tied) == ("minicpm-v", 12, True)
    assert vision.tower == Siglip(1152, layers=26, heads=16, intermediate=4304, patch=14, grid=27)
    assert (vision.resampler.queries, vision.resampler.heads) == (64, 18)
    assert vision.resampler.positions == ResizedPositions()
    assert (vision.image_size, vision.mean, vision.std) == (448, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert vision.placeholder.start == "<image>"


def test_omnilmm_reads_its_published_config():
    config = parse(by_name("OmniLMM-12B").raw)
    vision = config.vision
    assert (config.family, config.embed_scale, config.logit_scale) == ("omnilmm", 1, 1)
    assert vision.tower == Eva(1792, layers=63, heads=16, intermediate=15360, patch=14, grid=16)
    assert (vision.resampler.queries, vision.resampler.heads) == (64, 32)
    assert vision.image_size == 448
    assert vision.mean == (0.48145466, 0.4578275, 0.40821073)


@pytest.mark.parametrize(("name", "billions"), [("MiniCPM-V", 3.15), ("OmniLMM-12B", 11.6)])
def test_all_weights_are_counted(name, billions):
    config = parse(by_name(name).raw)
    counted = sum(weight.numel() for weight in blank(config).parameters())
    assert counted == parameter_count(config)
    assert counted / 1e9 == pytest.approx(billions, abs=0.05)


def test_a_blank_model_is_made_without_torchs_compiler():
    code = "import sys; from minicpm.checkpoint.building import blank; "
    code += "from minicpm.models.published import by_name; from minicpm.models.registry import parse; "
    code += "blank(parse(by_name('MiniCPM-V').raw)); print('sympy' in sys.modules)"
    sources = os.environ | {"PYTHONPATH": str(Path(minicpm.__file__).parents[1])}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=sources
    )
    assert found.stdout.strip() == "False"


@EITHER
def test_a_sliding_window_bounds_the_context(name):
    raw = tiny_config(name)
    assert parse(raw).context == 4096
    if name == "omnilmm-12b":
        assert parse(raw | {"sliding_window": None}).context == 32768


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"vision_encoder": "vit_large_patch16_clip_224"}, "vision_encoder is 'vit_large_patch16_clip_224'"),
        ({"vision_encoder": 7}, "vision_encoder is 7, where a string is needed"),
        ({"query_num": 63}, "query_num is 63, and the queries form a square"),
        ({"query_num": 0}, "query_num is 0"),
        ({"image_size": 10**6}, "image_size is 1000000"),
        ({"patch_size": 16}, "patch_size is 16, and the patches of this vision_encoder are 4 wide"),
        ({"mm_use_im_start_end": False}, "images without start and end markers"),
        ({"slice_mode": True}, "cutting images into slices"),
        ({"hidden_size": 66, "num_attention_heads": 3}, "hidden_size 66 does not divide"),
        (
            {"vision_config": {"hidden_size": 30, "num_attention_heads": 4}},
            "hidden_size 30 is not a multiple",
        ),
        ({"vision_config": {"depth": 3}}, "depth (vision_config in config.json)"),
    ],
)
def test_what_is_not_known_of_a_config_is_refused_by_name(change, told):
    with pytest.raises(minicpm.errors.ConfigError) as caught:
        parse(tiny_config("minicpm-v") | change)
    assert told in str(caught.value)


def test_an_unknown_tower_is_refused_before_a_weight_is_read(folders, tmp_path):
    folder = tiny_checkpoint("minicpm-v", tmp_path, num_hidden_layers=1)
    for shard in folder.glob("*.safetensors"):
        shard.write_bytes(b"")
    config = folder / "config.json"
    config.write_text(config.read_text().replace("vit_so400m", "vit_unknown"))
    with pytest.raises((BadConfig, minicpm.errors.CheckpointError)) as caught:
        parse(json.loads(config.read_text()))
    assert "vit_unknown_patch14_siglip_384" in str(caught.value)


def test_the_last_block_of_the_tower_may_be_kept():
    kept = parse(tiny_config("minicpm-v") | {"drop_vision_last_layer": False}).vision.tower
    assert kept.layers == parse(tiny_config("minicpm-v")).vision.tower.layers + 1


def test_the_second_version_computes_positions_anew():
    raw = tiny_config("minicpm-v") | {"slice_mode": False, "scale_resolution": 448, "max_slice_nums": 9}
    assert parse(raw).vision.resampler.positions == FreshPositions()


# --- names and files ----------------------------------------------------------------------------------------


def test_names_are_the_published_ones(seeing):
    small = {name: set(seeing(name).state_dict()) for name in NAMES}
    tops = {name: {weight.split(".")[0] for weight in weights} for name, weights in small.items()}
    assert tops == {"minicpm-v": {"llm", "vpm", "resampler"}, "omnilmm-12b": {"model", "lm_head"}}
    assert {"llm.model.embed_tokens.weight", "vpm.blocks.1.attn.qkv.bias", "resampler.proj"} <= small[
        "minicpm-v"
    ]
    assert {"model.vision_tower.cls_token", "model.resampler.query", "lm_head.weight"} <= small["omnilmm-12b"]
    assert not any(".blocks.2." in weight for weights in small.values() for weight in weights)


@EITHER
def test_a_checkpoint_that_lacks_a_part_is_refused_with_its_names(name, folders, tmp_path):
    folder = tiny_checkpoint(name, tmp_path, num_hidden_layers=1)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    weight = next(w for w in index["weight_map"] if w.endswith("resampler.query"))
    from safetensors.torch import load_file, save_file

    shard = folder / index["weight_map"].pop(weight)
    tensors = load_file(shard)
    tensors[weight + "_other"] = tensors.pop(weight)
    save_file(tensors, shard, metadata={"format": "pt"})
    index["weight_map"][weight + "_other"] = shard.name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightMismatch, match=r"1 missing: .*resampler\.query"):
        load_decoder(folder)


@EITHER
def test_saved_and_opened_again_it_gives_the_same(name, seeing, folders, tmp_path):
    decoder = seeing(name)
    again = load_decoder(save(decoder, tmp_path / "saved", source=folders[name]))
    prompt, same = Prompt(decoder), Prompt(again)
    assert torch.equal(prompt.vectors, same.vectors)
    assert torch.equal(whole(decoder, prompt), whole(again, same))


def with_head(folder, change):
    """The toy with an output matrix beside its embedding: `change` of it."""
    from safetensors.torch import load_file, save_file

    index = folder / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    shard = folder / told["weight_map"]["llm.model.embed_tokens.weight"]
    tensors = load_file(shard)
    tensors["llm.lm_head.weight"] = change(tensors["llm.model.embed_tokens.weight"].clone())
    save_file(tensors, shard, metadata={"format": "pt"})
    told["weight_map"]["llm.lm_head.weight"] = shard.name
    index.write_text(json.dumps(told))
    return folder


def test_a_tied_head_in_the_files_is_left_out(tmp_path):
    folder = with_head(tiny_checkpoint("minicpm-v", tmp_path), lambda embedding: embedding)
    assert "llm.lm_head.weight" not in load_decoder(folder).state_dict()


def test_a_head_that_differs_is_not_lost_where_the_config_does_not_say(tmp_path):
    folder = with_head(tiny_checkpoint("minicpm-v", tmp_path), lambda embedding: embedding * 2)
    with pytest.raises(WeightMismatch, match=r"output matrix llm\.lm_head\.weight that differs"):
        load_decoder(folder)
    raw, logits = json.loads((folder / "config.json").read_text()), {}
    for tied in (True, False):
        (folder / "config.json").write_text(json.dumps(raw | {"tie_word_embeddings": tied}))
        logits[tied] = load_decoder(folder).logits_for([1, 2])
    assert torch.equal(2 * logits[True], logits[False])


# --- one result ---------------------------------------------------------------------------------------------


@EITHER
@pytest.mark.parametrize("sizes", [(40,), (3, 37), (4, 1, 1, 34), (7, 33), (1,) * 40, (39, 1)], ids=str)
def test_chunks_over_a_cache_equal_the_whole(name, sizes, seeing):
    decoder = seeing(name)
    prompt = Prompt(decoder)
    assert difference(in_chunks(decoder, prompt, sizes), whole(decoder, prompt)) < FLOAT32


@EITHER
def test_packed_prompts_with_images_equal_separate_ones(name, seeing):
    decoder = seeing(name)
    prompts = [Prompt(decoder, starts=(1, 20), seed=1), Prompt(decoder, length=13, seed=2)]
    packed = whole(decoder, *prompts).split([40, 13])
    for ours, prompt in zip(packed, prompts, strict=True):
        assert difference(ours, whole(decoder, prompt)) < FLOAT32


@EITHER
def test_another_image_changes_what_follows_it_and_nothing_before(name, seeing):
    decoder = seeing(name)
    one, other = Prompt(decoder), Prompt(decoder)
    other.vectors = decoder.see(pixels(decoder.config, seed=9)).flatten(0, 1)
    other.embedded = decoder.embed_seen(other.ids, other.rows, other.vectors)
    a, b = whole(decoder, one), whole(decoder, other)
    assert torch.equal(a[:3], b[:3])
    assert (a[3:] != b[3:]).any(dim=1).all()


@EITHER
def test_text_is_scaled_and_images_are_not(name, seeing):
    decoder = seeing(name)
    prompt = Prompt(decoder)
    text = decoder.model.embed_tokens(prompt.ids) * decoder.config.embed_scale
    assert torch.equal(prompt.embedded[prompt.rows], prompt.vectors)
    others = [row for row in range(len(prompt.ids)) if row not in prompt.rows.tolist()]
    assert torch.equal(prompt.embedded[others], text[others])


@EITHER
def test_without_an_image_it_is_a_plain_decoder(name, seeing):
    decoder = seeing(name)
    ids = Prompt(decoder).ids
    batch = Batch(ids, (Segment(None, 0, len(ids)),), embedded=decoder.embed(ids))
    assert torch.equal(decoder.logits(decoder(batch)), decoder.logits_for(ids))


@EITHER
def test_prepared_and_unprepared_agree(name, seeing, folders):
    plain = load_decoder(folders[name], prepare=False, backend="reference").eval()
    assert difference(whole(seeing(name), Prompt(seeing(name))), whole(plain, Prompt(plain))) < FLOAT32


@EITHER
def test_half_precision_stays_near(name, seeing, folders):
    half = load_decoder(folders[name], dtype="bfloat16")
    assert difference(whole(half, Prompt(half)), whole(seeing(name), Prompt(seeing(name)))) < BFLOAT16


@EITHER
def test_gradients_reach_every_part_but_the_fixed_positions(name, folders):
    decoder = load_decoder(folders[name], prepare=False)
    seen = decoder.see(pixels(decoder.config))[0]
    ids = torch.arange(12)
    embedded = decoder.embed_seen(ids, torch.arange(2, 2 + len(seen)), seen)
    batch = Batch(ids, (Segment(None, 0, 12),), embedded=embedded)
    decoder.logits(decoder(batch)).square().sum().backward()
    without = [
        n for n, w in decoder.named_parameters() if w.requires_grad and (w.grad is None or not w.grad.any())
    ]
    assert without == []
    assert [n for n, w in decoder.named_parameters() if not w.requires_grad] == [
        n for n in decoder.state_dict() if n.endswith("resampler.pos_embed")
    ]


@EITHER
def test_logits_equal_transformers_given_the_same_vectors(name, seeing):
    transformers = pytest.importorskip("transformers", reason="`pip install transformers` runs this")
    decoder = seeing(name)
    raw = decoder.config.raw
    keys = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads"
    )
    shared = {key: raw[key] for key in keys.split()} | {"rms_norm_eps": raw["rms_norm_eps"]}
    shared |= {"tie_word_embeddings": False, "attn_implementation": "eager", "pad_token_id": None}
    if name == "minicpm-v":
        # A Granite multiplies all that enters; here text is scaled before, and images are not.
        config = transformers.GraniteConfig(
            **shared,
            embedding_multiplier=1.0,
            attention_multiplier=1 / math.sqrt(16),
            residual_multiplier=raw["scale_depth"] / math.sqrt(raw["num_hidden_layers"]),
            logits_scaling=raw["hidden_size"] / raw["dim_model_base"],
        )
        theirs, prefix = transformers.GraniteForCausalLM(config), "llm."
    else:
        theirs = transformers.MistralForCausalLM(transformers.MistralConfig(**shared, sliding_window=4096))
        prefix = ""
    state = {n.removeprefix(prefix): w for n, w in decoder.state_dict().items() if n.startswith(prefix)}
    state = {n: w for n, w in state.items() if "vision_tower" not in n and "resampler" not in n}
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    theirs.load_state_dict(state, strict=True)
    prompt = Prompt(decoder)
    with torch.no_grad():
        expected = theirs.eval()(inputs_embeds=prompt.embedded[None]).logits[0]
    assert difference(whole(decoder, prompt), expected) < FLOAT32


@EITHER
def test_it_answers_as_any_decoder_does(name, seeing, folders):
    decoder = seeing(name)
    assert isinstance(decoder, VisionDecoder)
    assert decoder.head.shape == (decoder.config.vocab, decoder.config.hidden)
    assert decoder.dtype == torch.float32
    assert decoder.see(pixels(decoder.config, 3)).shape == (3, 4, decoder.config.hidden)
