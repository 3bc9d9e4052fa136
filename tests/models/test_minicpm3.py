"""MiniCPM3 gives transformers' logits and greedy text, remembers latents alone, reads or refuses a config.

The oracle's settings come from the raw config by the published rules, never through our parser.
"""

import shutil

import pytest
import torch

from minicpm.cache import Batch, Segment
from minicpm.checkpoint import convert_bin, load, load_decoder, open_checkpoint, save
from minicpm.config import MLA, parameter_count
from minicpm.config.memory import cache_bytes
from minicpm.engine.engine import Engine
from minicpm.engine.request import Request
from minicpm.engine.sampling import SamplingParams
from minicpm.errors import BadConfig, UnreadConfig, UnsafeFormat
from minicpm.models.decoder import Decoder
from minicpm.models.published import by_name
from minicpm.models.registry import family, parse
from minicpm.testing import tiny_checkpoint

TOY = "minicpm3-4b"
RAW = dict(by_name("MiniCPM3-4B").raw)
TOKENS = 130  # more than two pages, no multiple of anything

# Largest difference over largest logit. Float32 sums of at most 130 terms in another order over three layers:
# measured at most 3.8e-7.
FLOAT32 = 1e-5
# In units of bfloat16's rounding step 2^-8, against the same bfloat16 weights computed in float32: measured
# 1.1 units, as is transformers' own bfloat16.
BFLOAT16 = 2 * 2**-8

SHORT = [1.0, 1.1, 1.2, 1.5, 2.0, 2.6, 3.1, 4.0]
LONG = [1.0, 1.3, 2.0, 3.3, 5.0, 8.0, 13.0, 21.0]
STRETCHED = {
    "type": "longrope",
    "short_factor": SHORT,
    "long_factor": LONG,
    "original_max_position_embeddings": 32,
}
VARIANTS = {
    "published": {},
    "untied": {"tie_word_embeddings": False},
    "narrow values": {"v_head_dim": 10},
    "values as wide as keys": {"v_head_dim": 28},
    "three heads": {"hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 3},
    "one head": {"num_attention_heads": 1, "num_key_value_heads": 1, "v_head_dim": 9},
    "no scaling": {"rope_scaling": None},
    "another base": {"rope_scaling": None, "rope_theta": 500.0},
    "beyond the original length": {"max_position_embeddings": 256, "rope_scaling": STRETCHED},
}
EVERY_VARIANT = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)


def oracle(raw, state, dtype=torch.float32):
    transformers = pytest.importorskip("transformers", reason="the oracle; pip install minicpm[dev]")
    rope = dict(raw.get("rope_scaling") or {})
    rope["rope_type"] = rope.pop("type", "default")
    rope["rope_theta"] = raw.get("rope_theta", 10000.0)
    named = ("architectures", "model_type", "torch_dtype", "rope_scaling", "rope_theta")
    settings = {key: value for key, value in raw.items() if key not in named}
    config = transformers.MiniCPM3Config(**settings, rope_parameters=rope, attn_implementation="eager")
    model = transformers.MiniCPM3ForCausalLM(config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert unexpected == []
    assert missing == (["lm_head.weight"] if config.tie_word_embeddings else [])
    model.tie_weights()
    return model.to(dtype).eval()


@torch.no_grad()
def their_logits(model, ids):
    return model(ids[None]).logits[0].float()


@torch.no_grad()
def our_logits(decoder, ids):
    return decoder.logits_for(ids)


@torch.no_grad()
def feed(decoder, cache, seq, ids):
    """Logits of ids appended to a sequence of a cache."""
    assert cache.reserve(seq, len(ids))
    segment = Segment(seq, cache.length(seq), len(ids))
    return decoder.logits(decoder(Batch(ids, (segment,), cache)))


def difference(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def assert_close(ours, theirs, bound=FLOAT32):
    assert ours.shape == theirs.shape
    found = difference(ours, theirs)
    row, column = divmod(int((ours - theirs).abs().argmax()), ours.shape[1])
    assert found <= bound, f"relative difference {found:.2e} over {bound:.2e}, at position {row}, id {column}"


@EVERY_VARIANT
def test_float32_logits_equal_the_oracle(toy, changes):
    model = toy(TOY, **changes)
    ids = model.ids(TOKENS)
    assert_close(our_logits(model.decoder(), ids), their_logits(oracle(model.raw, model.state), ids))


@EVERY_VARIANT
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_prepared_chunks_and_single_tokens_through_the_cache_equal_the_oracle(toy, changes, backend):
    model = toy(TOY, **changes)
    ids = model.ids(TOKENS)
    decoder = model.decoder(backend=backend)
    cache = decoder.new_cache(3)
    seq = cache.open()
    chunks = ids.split([50, 1, 1, 30, 2, 40, 1, 5])
    found = torch.cat([feed(decoder, cache, seq, chunk) for chunk in chunks])
    assert_close(found, their_logits(oracle(model.raw, model.state), ids))


def test_bfloat16_logits_stay_as_near_to_float32_as_transformers_do(toy):
    model = toy(TOY)
    ids = model.ids(TOKENS)
    rounded = {name: weight.bfloat16().float() for name, weight in model.state.items()}
    exact = their_logits(oracle(model.raw, rounded), ids)
    theirs = their_logits(oracle(model.raw, rounded, torch.bfloat16), ids)
    decoder = model.decoder(dtype=torch.bfloat16, backend="torch")
    cache = decoder.new_cache(3)
    seq = cache.open()
    decoded = torch.cat([feed(decoder, cache, seq, part) for part in ids.split([65, *[1] * 65])])
    for ours in (our_logits(decoder, ids), decoded):
        assert_close(ours, exact, BFLOAT16)
        assert difference(ours, exact) <= 1.5 * difference(theirs, exact)


def test_the_inner_norms_have_an_eps_of_their_own(toy):
    """Latents so small that their norm's eps decides."""
    model = toy(TOY)
    faint = {n: w / 500 if "kv_a_proj" in n or "q_a_proj" in n else w for n, w in model.state.items()}
    ids = model.ids(20)
    decoder = model.decoder()
    decoder.load_state_dict(faint)
    wanted = their_logits(oracle(model.raw, faint), ids)
    assert_close(our_logits(decoder, ids), wanted)
    for block in decoder.model.layers:
        block.self_attn.kv_a_layernorm.eps = decoder.config.norm_eps
    assert difference(our_logits(decoder, ids), wanted) > 100 * FLOAT32


def test_greedy_text_of_the_engine_equals_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the oracle; pip install minicpm[dev]")
    folder = tiny_checkpoint(TOY, tmp_path / "toy")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    engine = Engine(load_decoder(folder, dtype="float32"), pages=16, max_batch_tokens=48)
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 250, (n,), generator=generator) for n in (5, 70, 1)]
    streams = [
        engine.submit(Request(ids.tolist(), SamplingParams(temperature=0, max_tokens=40), ()))
        for ids in prompts
    ]
    engine.run()
    theirs.generation_config.eos_token_id = None  # nor does the engine stop here
    for ids, stream in zip(prompts, streams, strict=True):
        wanted = theirs.generate(
            ids[None], attention_mask=torch.ones(1, len(ids)), do_sample=False, max_new_tokens=40
        )
        assert list(stream.result().samples[0].token_ids) == wanted[0, len(ids) :].tolist()


def test_a_sequence_goes_on_in_a_cache_that_has_grown(toy):
    model = toy(TOY)
    decoder, ids = model.decoder(backend="torch"), model.ids(100)
    cache = decoder.new_cache(1)
    seq = cache.open()
    first = feed(decoder, cache, seq, ids[:60])
    assert not cache.reserve(seq, 40)
    cache.grow(2)
    assert_close(torch.cat((first, feed(decoder, cache, seq, ids[60:]))), our_logits(decoder, ids))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 64, 65, 200])
def test_the_cache_of_a_sequence_takes_the_counted_bytes(toy, tokens, dtype):
    decoder = toy(TOY).decoder()
    cache = decoder.new_cache(8, dtype=dtype)
    before, seq = cache.free_pages, cache.open()
    feed(decoder, cache, seq, torch.zeros(tokens, dtype=torch.int64))
    taken = (before - cache.free_pages) * cache.nbytes // cache.total_pages
    assert taken == cache_bytes(decoder.config, tokens, str(dtype).removeprefix("torch."))


def test_a_published_token_takes_288_numbers_per_layer():
    config = parse(RAW)
    assert cache_bytes(config, 64, "bfloat16") == 64 * 62 * 288 * 2
    with torch.device("meta"):
        assert Decoder(config).new_cache(1, dtype=torch.bfloat16).nbytes == 64 * 62 * 288 * 2


def test_saved_prepared_and_reopened_it_gives_the_same_bits(tmp_path):
    folder = tiny_checkpoint(TOY, tmp_path / "toy", dtype="bfloat16")
    decoder = load(open_checkpoint(folder), prepare=True)
    again = load(open_checkpoint(save(decoder, tmp_path / "again", source=folder)), prepare=True)
    ids = torch.arange(40)
    assert torch.equal(our_logits(again, ids), our_logits(decoder, ids))


def test_a_checkpoint_of_pickles_is_refused_until_it_is_converted(tmp_path):
    folder = tiny_checkpoint(TOY, tmp_path / "toy")
    opened = open_checkpoint(folder)
    tensors = {name: opened.read(name) for name in opened.tensors}
    legacy = tmp_path / "legacy"
    legacy.mkdir()
    for file in folder.iterdir():
        if "safetensors" not in file.name:
            shutil.copy(file, legacy)
    torch.save(tensors, legacy / "pytorch_model.bin")
    with pytest.raises(UnsafeFormat, match="minicpm convert"):
        open_checkpoint(legacy)
    converted = load_decoder(convert_bin(legacy, tmp_path / "out"))
    ids = torch.arange(20)
    assert torch.equal(our_logits(converted, ids), our_logits(load_decoder(folder), ids))


def test_the_published_config_is_read_in_full():
    config = parse(RAW)
    mixer = MLA(heads=40, q_rank=768, kv_rank=256, nope=64, rope=32, value=64, inner_eps=1e-6)
    assert {layer.mixer for layer in config.layers} == {mixer}
    assert (config.norm_eps, config.rope.dim, config.context, config.tied) == (1e-5, 32, 32768, True)
    assert parameter_count(config) == 4_073_875_968
    assert (config.family, family("minicpm3").template, family("minicpm3").dialect) == (
        "minicpm3",
        "chatml",
        "py-call",
    )


def test_a_config_written_by_transformers_is_read(toy):
    model = toy(TOY)
    written = oracle(model.raw, model.state).config.to_dict() | {"architectures": ["MiniCPM3ForCausalLM"]}
    assert written["head_dim"] == model.raw["qk_rope_head_dim"]
    assert written["qk_head_dim"] == model.config.layers[0].mixer.head_dim
    read = parse(written)
    assert (read.layers, read.rope, read.residual_scale) == (
        model.config.layers,
        model.config.rope,
        model.config.residual_scale,
    )


def without(raw, *keys):
    return {key: value for key, value in raw.items() if key not in keys}


def refusal(raw, kind=BadConfig) -> str:
    with pytest.raises(kind) as caught:
        parse(raw)
    return str(caught.value)


def test_all_contradictions_are_named_at_once():
    message = refusal(
        RAW
        | {
            "num_key_value_heads": 8,
            "qk_head_dim": 64,
            "head_dim": 128,
            "qk_rope_head_dim": 33,
            "v_head_dim": 200,
            "attention_bias": True,
            "rope_scaling": None,
        }
    )
    for said in (
        "num_key_value_heads is 8: each of the 40 query heads",
        "qk_head_dim is 64: qk_nope_head_dim and qk_rope_head_dim make 97",
        "head_dim is 128: query and key heads are 97 wide, their rotated part 33",
        "qk_rope_head_dim 33 is odd",
        "value heads 200 wide are wider than query and key heads, which have 97",
        "attention_bias is True",
    ):
        assert said in message, said


@pytest.mark.parametrize(
    "key",
    "q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim rms_norm_eps scale_emb scale_depth "
    "dim_model_base hidden_size num_attention_heads".split(),
)
@pytest.mark.parametrize("absent", [True, False], ids=["absent", "null"])
def test_what_has_no_one_default_must_be_there(key, absent):
    """A null q_lora_rank asks for another architecture, with one dense query projection."""
    message = refusal(without(RAW, key) if absent else RAW | {key: None})
    assert f"{key} is missing" in message
    assert ";" not in message


def test_values_are_as_wide_as_a_share_of_the_stream_unless_said():
    assert parse(RAW | {"v_head_dim": 48}).layers[0].mixer.value == 48
    uneven = RAW | {"num_attention_heads": 48, "num_key_value_heads": 48}
    assert "2560 is no multiple of num_attention_heads 48, and there is no v_head_dim" in refusal(uneven)
    assert parse(uneven | {"v_head_dim": 64}).layers[0].mixer.heads == 48


def test_every_consistent_width_of_a_head_is_accepted():
    assert {parse(RAW | {"head_dim": width}) for width in (32, 96)} == {parse(RAW)}
    assert parse(RAW | {"qk_head_dim": 96}) == parse(RAW)


def test_keys_of_other_latent_attentions_are_refused_by_name():
    message = refusal(RAW | {"rope_interleave": True, "n_routed_experts": 8}, UnreadConfig)
    assert "n_routed_experts (config.json), rope_interleave (config.json)" in message
    yarn = {"type": "yarn", "factor": 40, "mscale": 1.0, "original_max_position_embeddings": 4096}
    assert "rope type 'yarn'" in refusal(RAW | {"rope_scaling": yarn})


def test_either_the_architecture_or_the_model_type_is_enough():
    assert parse(without(RAW, "model_type")) == parse(without(RAW, "architectures")) == parse(RAW)
