"""What is written for other programs says the same model, and lies as their formats ask."""

import hashlib
import json
import math
import re

import pytest
import torch

from minicpm.checkpoint import load, open_checkpoint, save_packed
from minicpm.convert.layouts_export import to_awq, to_gptq, to_llama, to_mlx
from minicpm.errors import BadInput, DiskFull, NotFinite
from minicpm.layers.quant_embedding import QuantEmbedding
from minicpm.layers.quant_linear import QuantLinear
from minicpm.ops.quant_tensor import QuantTensor, Scheme, pack_codes, unpack_codes
from minicpm.testing import tiny_checkpoint

IDS = torch.arange(40) % 23
SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 8, "num_key_value_heads": 4}
FOLDED = ["minicpm-2b", "minicpm-1b", "minicpm4-0.5b", "minicpm4-8b", "minicpm4.1-8b", "bitcpm4-1b"]
# Largest difference over largest logit: float32 sums of the same terms, scaled before instead of after.
FLOAT32 = 1e-5


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@torch.no_grad()
def logits(folder, **options):
    return load(open_checkpoint(folder), backend="torch", **options).logits_for(IDS)


def random_matrix(outputs, inputs, *, bits=4, group=64, zeros=False, dtype=torch.bfloat16, least=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (outputs, inputs), generator=generator)
    group = inputs if group == "row" else group
    shape = (outputs, inputs // group)
    scales = ((0.5 + torch.rand(shape, generator=generator)) * 2.0 ** (1 - bits) / inputs**0.5).to(dtype)
    held = torch.randint(least, 2**bits, shape, generator=generator).to(torch.uint8) if zeros else None
    if held is not None:
        held[0, 0] = least
    result = None if dtype == torch.bfloat16 else torch.bfloat16
    return QuantTensor(pack_codes(codes, bits), scales, held, Scheme(bits, group, not zeros), None, result)


def quantized(folder, *, head=False, skip=(), other=None, **scheme):
    """A toy in our own layout; modules whose name ends with one in `other` have another scheme."""
    base = tiny_checkpoint("minicpm4-0.5b", folder / "base", dtype="bfloat16", **SIZES)
    model = load(open_checkpoint(base), prepare=False)
    names = [name for name, part in model.named_modules() if type(part) is torch.nn.Linear]
    for number, name in enumerate(names):
        if name.endswith(skip):
            continue
        part = model.get_submodule(name)
        said = scheme | next((own for end, own in (other or {}).items() if name.endswith(end)), {})
        above, _, own = name.rpartition(".")
        weight = random_matrix(part.out_features, part.in_features, seed=number, **said)
        setattr(model.get_submodule(above), own, QuantLinear(weight))
    if head:
        shape = tuple(model.model.embed_tokens.weight.shape)
        model.model.embed_tokens = QuantEmbedding(random_matrix(*shape, bits=8, group=32, seed=99))
    return open_checkpoint(save_packed(model, folder / "own", source=base))


def tensors(folder):
    opened = open_checkpoint(folder)
    infos = dict(opened.tensors)
    for source in opened.packed.values():
        infos |= {f"{source.name.removesuffix('.weight')}.{end}": info for end, info in source.parts.items()}
    from minicpm.checkpoint.reading import read_tensor

    return {name: read_tensor(info) for name, info in infos.items()}


def test_what_is_written_is_listed_with_its_sums(tmp_path):
    source = quantized(tmp_path)
    outcome = to_gptq(source, tmp_path / "out")
    sums = dict(reversed(line.split("  ")) for line in (outcome.path / "SHA256SUMS").read_text().splitlines())
    assert set(outcome.files) == {*sums, "SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((outcome.path / name).read_bytes()).hexdigest() == digest
    assert (outcome.path / "tokenizer.json").exists()


@pytest.mark.parametrize("family", FOLDED)
def test_a_llama_has_the_logits_of_the_model_it_was_folded_from(family, tmp_path):
    transformers = pytest.importorskip("transformers", reason="the oracle; pip install minicpm[dev]")
    source = tiny_checkpoint(family, tmp_path / "source", dtype="float32", torch_dtype="float32")
    to_llama(open_checkpoint(source), tmp_path / "llama")
    wanted = logits(source)
    ours = logits(tmp_path / "llama")
    oracle = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "llama", dtype=torch.float32)
    with torch.no_grad():
        theirs = oracle(IDS[None]).logits[0]
    for found in (ours, theirs):
        assert ((found - wanted).abs().max() / wanted.abs().max()).item() < FLOAT32
    raw = json.loads((tmp_path / "llama/config.json").read_text())
    assert raw["architectures"] == ["LlamaForCausalLM"]
    assert raw["tie_word_embeddings"] is False
    assert not {"scale_emb", "scale_depth", "dim_model_base", "auto_map"} & raw.keys()


def test_each_weight_is_folded_in_float32_and_cast_once(tmp_path):
    source = open_checkpoint(tiny_checkpoint("minicpm-2b", tmp_path / "source", dtype="bfloat16"))
    to_llama(source, tmp_path / "llama")
    found, raw = tensors(tmp_path / "llama"), source.raw_config
    residual = raw["scale_depth"] / math.sqrt(raw["num_hidden_layers"])
    factors = {
        "embed_tokens.weight": raw["scale_emb"],
        "o_proj.weight": residual,
        "down_proj.weight": residual,
    }
    for name, info in source.tensors.items():
        factor = next((f for end, f in factors.items() if name.endswith(end)), 1.0)
        assert torch.equal(found[name], (source.read(name).float() * factor).bfloat16()), (name, info)
    embedding = source.read("model.embed_tokens.weight").float()
    head = (embedding / (raw["hidden_size"] / raw["dim_model_base"])).bfloat16()
    assert torch.equal(found["lm_head.weight"], head)


def test_codes_are_decoded_for_a_llama(tmp_path):
    source = quantized(tmp_path)
    to_llama(source, tmp_path / "llama")
    found, wanted = logits(tmp_path / "llama"), logits(source.path)
    assert not open_checkpoint(tmp_path / "llama").packed
    # bfloat16 has 8 bits, and three layers are summed.
    assert ((found - wanted).norm() / wanted.norm()).item() < 3e-2


@pytest.mark.parametrize("family", ["minicpm3-4b", "minicpm-moe-8x2b", "minicpm-s-1b", "minicpm-sala"])
def test_what_no_llama_computes_is_refused(family, tmp_path):
    source = open_checkpoint(tiny_checkpoint(family, tmp_path / "source"))
    with pytest.raises(BadInput, match="no Llama computes"):
        to_llama(source, tmp_path / "llama")
    assert not (tmp_path / "llama").exists()


def test_a_llama_is_not_folded_again(tmp_path):
    source = open_checkpoint(tiny_checkpoint("minicpm-2b", tmp_path / "source"))
    to_llama(source, tmp_path / "llama")
    with pytest.raises(BadInput, match="llama format already"):
        to_llama(open_checkpoint(tmp_path / "llama"), tmp_path / "twice")


def test_products_that_overflow_are_refused(tmp_path):
    folder = tiny_checkpoint("minicpm-2b", tmp_path / "source", dtype="float16")
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"scale_emb": 1e6}))
    with pytest.raises(NotFinite, match="overflows F16"):
        to_llama(open_checkpoint(folder), tmp_path / "llama")
    assert not (tmp_path / "llama").exists()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("group", [32, "row"])
def test_gptq_says_every_code_and_zero(bits, zeros, group, tmp_path):
    source = quantized(tmp_path, bits=bits, zeros=zeros, group=group)
    to_gptq(source, tmp_path / "gptq")
    assert torch.equal(logits(tmp_path / "gptq"), logits(source.path))
    said = json.loads((tmp_path / "gptq/config.json").read_text())["quantization_config"]
    assert said == {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": -1 if group == "row" else group,
        "sym": not zeros,
        "desc_act": False,
        "static_groups": True,
        "lm_head": False,
        "checkpoint_format": "gptq",
    }
    found = tensors(tmp_path / "gptq")
    name = "model.layers.1.mlp.down_proj"
    weight = source.packed[f"{name}.weight"].read(torch.bfloat16)
    codes = unpack_codes(weight.codes, bits, weight.shape[1])
    stream = [word & 0xFFFFFFFF for word in found[f"{name}.qweight"][:, 5].tolist()]
    whole = sum(word << (32 * place) for place, word in enumerate(stream))
    assert [(whole >> (bits * i)) & (2**bits - 1) for i in range(weight.shape[1])] == codes[5].tolist()
    row = [word & 0xFFFFFFFF for word in found[f"{name}.qzeros"][0].tolist()]
    whole = sum(word << (32 * place) for place, word in enumerate(row))
    wanted = [2 ** (bits - 1)] * weight.shape[0] if weight.zeros is None else weight.zeros[:, 0].tolist()
    assert [((whole >> (bits * o)) & (2**bits - 1)) + 1 for o in range(weight.shape[0])] == wanted
    assert torch.equal(found[f"{name}.scales"], weight.scales.t())
    size = weight.scheme.group
    assert found[f"{name}.g_idx"].tolist() == [i // size for i in range(weight.shape[1])]


def test_a_zero_that_version_1_cannot_say_makes_version_2(tmp_path):
    source = quantized(tmp_path, zeros=True, least=0)
    to_gptq(source, tmp_path / "gptq")
    said = json.loads((tmp_path / "gptq/config.json").read_text())["quantization_config"]
    assert said["checkpoint_format"] == "gptq_v2"
    assert torch.equal(logits(tmp_path / "gptq"), logits(source.path))


@pytest.mark.parametrize("zeros", [False, True])
def test_awq_says_every_code_and_zero(zeros, tmp_path):
    source = quantized(tmp_path, zeros=zeros, least=0)
    to_awq(source, tmp_path / "awq")
    assert torch.equal(logits(tmp_path / "awq"), logits(source.path))
    said = json.loads((tmp_path / "awq/config.json").read_text())["quantization_config"]
    assert (said["quant_method"], said["bits"], said["group_size"], said["version"]) == ("awq", 4, 64, "gemm")
    found, name = tensors(tmp_path / "awq"), "model.layers.0.self_attn.k_proj"
    weight = source.packed[f"{name}.weight"].read(torch.bfloat16)
    codes = unpack_codes(weight.codes, 4, weight.shape[1])
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    for i in (0, 7, 100):
        for column, word in enumerate(found[f"{name}.qweight"][i].tolist()):
            for k in range(8):
                assert (word >> (4 * k)) & 15 == codes[8 * column + order[k], i]
    zero = torch.full_like(weight.scales, 8) if weight.zeros is None else weight.zeros
    for column, word in enumerate(found[f"{name}.qzeros"][1].tolist()):
        for k in range(8):
            assert (word >> (4 * k)) & 15 == zero[8 * column + order[k], 1]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("head", [False, True])
def test_mlx_says_every_code(bits, head, tmp_path):
    source = quantized(tmp_path, bits=bits, head=head)
    to_mlx(source, tmp_path / "mlx")
    assert torch.equal(logits(tmp_path / "mlx"), logits(source.path))
    raw = json.loads((tmp_path / "mlx/config.json").read_text())
    assert raw["quantization"] == raw["quantization_config"]
    assert (raw["quantization"]["bits"], raw["quantization"]["group_size"]) == (bits, 64)
    own = {"group_size": 32, "bits": 8}
    assert raw["quantization"].get("model.embed_tokens") == (own if head else None)
    found, name = tensors(tmp_path / "mlx"), "model.layers.2.mlp.up_proj"
    weight = source.packed[f"{name}.weight"].read(torch.bfloat16)
    codes = unpack_codes(weight.codes, bits, weight.shape[1])
    whole = sum(int(word) << (32 * place) for place, word in enumerate(found[f"{name}.weight"][3].tolist()))
    assert [(whole >> (bits * i)) & (2**bits - 1) for i in range(weight.shape[1])] == codes[3].tolist()
    assert torch.equal(found[f"{name}.biases"], -(2.0 ** (bits - 1)) * weight.scales)


def test_whole_rows_become_the_groups_that_mlx_has(tmp_path):
    source = quantized(tmp_path, group="row")
    to_mlx(source, tmp_path / "mlx")
    assert {one.group for one in open_checkpoint(tmp_path / "mlx").packed.values()} == {128}
    assert torch.equal(logits(tmp_path / "mlx"), logits(source.path))


def test_an_embedding_in_codes_is_plain_in_gptq(tmp_path):
    source = quantized(tmp_path, head=True)
    to_gptq(source, tmp_path / "gptq")
    opened = open_checkpoint(tmp_path / "gptq")
    assert "model.embed_tokens.weight" in opened.tensors
    assert torch.equal(logits(tmp_path / "gptq"), logits(source.path))


def test_plain_projections_are_named_to_those_who_read_the_rest(tmp_path):
    source = quantized(tmp_path, skip=("down_proj",))
    to_gptq(source, tmp_path / "gptq")
    to_awq(source, tmp_path / "awq")
    names = [f"model.layers.{i}.mlp.down_proj" for i in range(3)]
    gptq = json.loads((tmp_path / "gptq/config.json").read_text())["quantization_config"]
    assert [bool(re.match(p.removeprefix("-:"), n)) for p, n in zip(gptq["dynamic"], names, strict=True)] == [
        True
    ] * 3
    awq = json.loads((tmp_path / "awq/config.json").read_text())["quantization_config"]
    assert awq["modules_to_not_convert"] == names
    for made in ("gptq", "awq"):
        assert torch.equal(logits(tmp_path / made), logits(source.path))


def test_what_a_layout_cannot_say_is_refused_by_name(tmp_path):
    eight = {"down_proj": {"bits": 8}}
    source = quantized(tmp_path / "a", other=eight)
    with pytest.raises(BadInput, match=r"layers\.0\.mlp\.down_proj has 8 bits, where most have 4"):
        to_gptq(source, tmp_path / "out")
    with pytest.raises(BadInput, match=r"down_proj has 8 bits, where AWQ has 4.*minicpm quantize MODEL DST"):
        to_awq(source, tmp_path / "out")
    to_mlx(source, tmp_path / "mlx")
    assert torch.equal(logits(tmp_path / "mlx"), logits(source.path))
    with pytest.raises(BadInput, match="zero times scale is rounded in bfloat16"):
        to_mlx(quantized(tmp_path / "b", zeros=True), tmp_path / "out")
    with pytest.raises(BadInput, match="offsets that are no zeros"):
        to_gptq(open_checkpoint(tmp_path / "mlx"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("write", [to_gptq, to_awq, to_mlx])
def test_a_plain_model_is_to_be_quantized_first(write, tmp_path):
    source = open_checkpoint(tiny_checkpoint("minicpm4-0.5b", tmp_path / "plain"))
    with pytest.raises(BadInput, match=r"no projection in codes.*minicpm quantize MODEL DST --method"):
        write(source, tmp_path / "out")


@pytest.mark.parametrize("write", [to_gptq, to_awq, to_mlx, to_llama])
def test_a_dry_run_says_the_sizes_and_writes_nothing(write, tmp_path):
    source = quantized(tmp_path)
    planned = write(source, tmp_path / "out", dry_run=True)
    assert not (tmp_path / "out").exists()
    made = write(source, tmp_path / "out")
    assert planned.files == {name: made.files[name] for name in planned.files}
    assert planned.nbytes > 0
    with pytest.raises(BadInput, match="not empty"):
        write(source, tmp_path / "out")
    assert write(source, tmp_path / "out", overwrite=True).files == made.files


@pytest.mark.parametrize("write", [to_gptq, to_llama])
def test_a_full_disk_and_an_interruption_leave_nothing(write, tmp_path, monkeypatch):
    source = quantized(tmp_path)

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(source, tmp_path / "out", progress=interrupt)
    monkeypatch.setattr("minicpm.checkpoint.disk.free_bytes", lambda folder: 7)
    with pytest.raises(DiskFull, match="7 bytes free"):
        write(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "own"]


@pytest.mark.parametrize("write", [to_gptq, to_awq])
def test_groups_of_different_sizes_are_said_in_one_that_divides_all(write, tmp_path):
    other = {"down_proj": {"group": "row"}, "k_proj": {"group": 32}}
    source = quantized(tmp_path, zeros=True, other=other)
    write(source, tmp_path / "out")
    assert {one.group for one in open_checkpoint(tmp_path / "out").packed.values()} == {32}
    assert torch.equal(logits(tmp_path / "out"), logits(source.path))


def test_groups_that_share_too_little_are_refused_by_name(tmp_path):
    source = quantized(tmp_path, other={"k_proj": {"group": 16}})
    with pytest.raises(BadInput, match=r"k_proj has groups of 16, which share 16 with the others"):
        to_gptq(source, tmp_path / "out")
