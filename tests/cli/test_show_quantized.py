"""`minicpm show` says how quantized weights are held, and `minicpm doctor` whether names say so too."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from minicpm.checkpoint import load, open_checkpoint, save_packed
from minicpm.convert.layouts_export import to_awq, to_gptq, to_llama, to_mlx
from minicpm.testing import tiny_checkpoint

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12\n"
MATRICES = 3 * 7


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return tiny_checkpoint("minicpm4-0.5b", tmp_path_factory.mktemp("models") / "plain", dtype="bfloat16")


@pytest.fixture(scope="module")
def own(plain, tmp_path_factory):
    """A toy of 4 bits in groups of 32, but for an embedding of 8."""
    model = load(open_checkpoint(plain), weights="int4", prepare=False)
    return save_packed(model, tmp_path_factory.mktemp("models") / "own", source=plain)


@pytest.fixture(scope="module")
def gptq(own, tmp_path_factory):
    return to_gptq(open_checkpoint(own), tmp_path_factory.mktemp("models") / "gptq").path


def shown(program, folder):
    return program("show", str(folder)).out, json.loads(program("show", str(folder), "--json").out)


def doctor(program, folder):
    """The findings, by subject, and the exit status."""
    outcome = program("doctor", str(folder), "--json")
    found = {}
    for finding in json.loads(outcome.out):
        found.setdefault(finding["subject"], []).append(finding)
    assert outcome.code == int(not all(f["ok"] for many in found.values() for f in many))
    return found, outcome.code


def wrong(found):
    return [finding for many in found.values() for finding in many if not finding["ok"]]


def named(source, name, tmp_path):
    return shutil.copytree(source, tmp_path / name)


def test_format_bits_and_groups_are_shown(program, gptq):
    text, document = shown(program, gptq)
    quantized = document["quantized"]
    (only,) = quantized["formats"]
    assert (only["format"], only["group"], only["matrices"]) == ("gptq 4 bits, groups of 32", 32, MATRICES)
    weights = 3 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)
    assert only["bits_per_weight"] == pytest.approx(8 * only["bytes"] / weights)
    assert 4.5 < only["bits_per_weight"] < 5.5
    assert f"gptq 4 bits, groups of 32: {MATRICES} matrices, {only['bits_per_weight']:.2f} bits" in text


def test_what_stays_plain_is_shown(program, gptq):
    text, document = shown(program, gptq)
    (stays,) = document["quantized"]["plain"]
    assert (stays["dtype"], stays["names"]) == ("BF16", ["embed_tokens", "norms"])
    assert "BF16: embed_tokens, norms" in text


def test_mixed_schemes_are_shown_one_by_one(program, own):
    formats = [found["format"] for found in shown(program, own)[1]["quantized"]["formats"]]
    assert formats == [
        "minicpm 4 bits, groups of 32",
        "minicpm 4 bits, whole rows",
        "minicpm 8 bits, whole rows",
    ]


def test_memory_is_that_of_the_codes(program, own, plain):
    (held, *_), (whole, *_) = (shown(program, folder)[1]["memory"] for folder in (own, plain))
    decoder = load(open_checkpoint(own), prepare=False)
    taken = sum(p.nbytes for p in decoder.parameters()) + sum(b.nbytes for b in decoder.buffers())
    assert held["weight_bytes"] == taken < whole["weight_bytes"]


def test_a_plain_model_is_not_called_quantized(program, plain):
    text, document = shown(program, plain)
    assert document["quantized"] is None
    assert "quantized" not in text


def test_an_asked_for_context_is_planned_with_the_codes(program, own, plain):
    options = ("--context", "64", "--max-tokens", "1")
    said = [program("run", str(folder), *options, stdin=b"hello").err for folder in (own, plain)]
    assert all("A context of 64 tokens takes" in text for text in said)
    assert said[0].split("of weights")[0] != said[1].split("of weights")[0]


@pytest.mark.parametrize("layout", ["gptq", "own", "plain"])
def test_a_sound_model_without_claims_is_well(layout, program, request, tmp_path):
    folder = named(request.getfixturevalue(layout), "model", tmp_path)
    found, code = doctor(program, folder)
    assert code == 0
    assert {"files", "model", "weights", "tensors", "tokenizer"} == set(found)
    lines = program("doctor", str(folder)).out.splitlines()
    assert all(line.startswith("ok  ") for line in lines)


def test_nano_is_well(program):
    assert doctor(program, "nano")[1] == 0


CLAIMS = [
    ("gptq", "Model-GPTQ-Int4", None),
    ("gptq", "Model-QAT-Int4-GPTQ-format", None),
    ("gptq", "Model-W4A16", None),
    ("gptq", "Model-AutoAWQ", "says AWQ, but the weights are in gptq"),
    ("gptq", "Model-GPTQ-Int8", "says 8 bits, but the layers have codes of 4 bits"),
    ("gptq", "Model-QAT-Int4-unquantized", "says unquantized, but 21 matrices are in codes"),
    ("gptq", "BitCPM4-Model", "says ternary weights, but"),
    ("own", "Model-4bit", None),
    ("own", "Model-MLX-4bit", "says MLX, but the weights are in minicpm"),
    ("plain", "Model-GPTQ", "says GPTQ, but the weights are plain BF16"),
    ("plain", "Model-Int4", "says 4 bits, but the weights are plain BF16"),
    ("plain", "Model-QAT-Int4-unquantized", None),
    ("plain", "Model-llama-format", "says llama format, but config.json says MiniCPMForCausalLM"),
    ("plain", "Model-8B", "says 8B, but there are"),
    ("plain", "BitCPM4-Model", "says ternary weights, but they have other values"),
    ("plain", "Model-Marlin", "says MARLIN, but"),
    ("plain", "Quality4bits0fluff", None),
]


@pytest.mark.parametrize(("layout", "name", "said"), CLAIMS, ids=[f"{a} {b}" for a, b, _ in CLAIMS])
def test_what_a_name_claims_is_held_against_the_weights(layout, name, said, program, request, tmp_path):
    found, code = doctor(program, named(request.getfixturevalue(layout), name, tmp_path))
    if said is None:
        assert code == 0, wrong(found)
        assert all(finding["ok"] for finding in found.get("name", []))
    else:
        assert code == 1
        (finding,) = wrong(found)
        assert said in finding["found"]
        assert finding["advice"]


def test_other_layouts_are_what_they_claim(program, own, tmp_path):
    source = open_checkpoint(own)
    for write, name in (
        (to_awq, "Model-AutoAWQ"),
        (to_mlx, "Model-mlx-4bit"),
        (to_llama, "Model-llama-format"),
    ):
        write(source, tmp_path / name)
        assert doctor(program, tmp_path / name)[1] == 0


def test_a_ternary_model_is_what_it_claims(program, tmp_path):
    folder = tiny_checkpoint("bitcpm4-1b", tmp_path / "BitCPM4", dtype="bfloat16")
    assert "they are, in groups of 32" in doctor(program, folder)[0]["name"][0]["found"]


def test_a_config_that_says_quantized_beside_plain_tensors_is_told(program, plain, tmp_path):
    folder = named(plain, "model", tmp_path)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"quantization_config": {"quant_method": "gptq"}}))
    (finding,) = wrong(doctor(program, folder)[0])
    assert "quantized with gptq, and the tensors are plain" in finding["found"]


def shards(folder):
    return sorted(folder.glob("*.safetensors"))


DAMAGE = {
    "a pointer": lambda folder: shards(folder)[0].write_bytes(POINTER),
    "a cut shard": lambda folder: shards(folder)[1].write_bytes(shards(folder)[1].read_bytes()[:-9]),
    "an absent shard": lambda folder: shards(folder)[2].unlink(),
    "no config": lambda folder: (folder / "config.json").unlink(),
    "broken config": lambda folder: (folder / "config.json").write_text("{"),
    "an unknown model": lambda folder: (folder / "config.json").write_text('{"architectures": ["X"]}'),
    "an unread key": lambda folder: (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | {"surprise": 1})
    ),
    "another depth": lambda folder: (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 5})
    ),
    "no tokenizer": lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
    "a tokenizer of another model": lambda folder: (folder / "generation_config.json").write_text(
        '{"eos_token_id": 100000}'
    ),
}
SUBJECTS = {
    "a pointer": ("files", "Git-LFS pointers"),
    "a cut shard": ("files", "it has"),
    "an absent shard": ("files", "not in the folder"),
    "no config": ("files", "no config.json"),
    "broken config": ("files", "not valid JSON"),
    "an unknown model": ("config", "No model family"),
    "an unread key": ("config", "surprise"),
    "another depth": ("tensors", "missing"),
    "no tokenizer": ("tokenizer", "tokenizer"),
    "a tokenizer of another model": ("tokenizer", "100000"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_a_finding_with_what_to_do(damage, program, plain, tmp_path):
    folder = named(plain, "model", tmp_path)
    DAMAGE[damage](folder)
    found, code = doctor(program, folder)
    subject, said = SUBJECTS[damage]
    assert code == 1
    (finding,) = wrong(found)
    assert finding["subject"] == subject
    assert said in finding["found"]
    text = program("doctor", str(folder))
    assert text.code == 1
    assert "-> " in text.out
    assert "Traceback" not in text.err


def test_a_quantized_matrix_that_lost_its_scales_is_a_finding(program, gptq, tmp_path):
    folder = named(gptq, "model", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.scales"]
    save_file(tensors, folder / "model.safetensors")
    (finding,) = wrong(doctor(program, folder)[0])
    assert "up_proj: scales is missing" in finding["found"]


def test_a_weight_file_by_itself_is_looked_at(program, plain, tmp_path):
    whole = shards(plain)[0]
    assert "a whole weight file" in program("doctor", str(whole)).out
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-1])
    outcome = program("doctor", str(cut))
    assert outcome.code == 1
    assert "fetch the file again" in outcome.out


def test_what_is_not_here_is_refused_as_anywhere(program, tmp_path):
    program("doctor", str(tmp_path / "nothing")).refused("does not exist")
    program("doctor", "openbmb/MiniCPM4-8B").refused("MiniCPM4-8B")
    for name in ("a" * 200, "a\nb", ""):
        program("doctor", name).refused()


def test_a_name_from_a_hub_is_that_of_its_repository(plain, gptq, tmp_path):
    from minicpm.cli.claims import name_of

    snapshot = tmp_path / "models--openbmb--MiniCPM4.1-8B-GPTQ" / "snapshots" / ("c" * 40)
    assert name_of(snapshot) == "MiniCPM4.1-8B-GPTQ"
    assert name_of(plain) == "plain"


def test_weights_in_codes_are_not_said_to_take_what_plain_ones_take(program, gptq, plain):
    assert "of weights as codes" in shown(program, gptq)[0]
    assert "of weights as bfloat16" in shown(program, plain)[0]
