"""Which layout a folder has is told by its tensors; what cannot be read is refused by name, at once."""

import json
import subprocess
import sys
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import minicpm
from minicpm.checkpoint import open_checkpoint
from minicpm.errors import (
    BadConfig,
    CheckpointError,
    LfsPointer,
    MalformedFile,
    NotACheckpoint,
    UnknownFormat,
)

SRC = Path(__file__).resolve().parents[3] / "src"
MODULE = "model.layers.1.mlp.up_proj"
FORMATS = {
    "gptq 4": "gptq 4 bits, groups of 64",
    "gptq 4 rows": "gptq 4 bits, whole rows",
    "gptq 8": "gptq 8 bits, groups of 32",
    "gptq 3": "gptq 3 bits, groups of 64",
    "gptq 2 asymmetric": "gptq 2 bits, groups of 32",
    "gptq v2 asymmetric": "gptq 4 bits, groups of 32",
    "awq": "awq 4 bits, groups of 64",
    "marlin": "marlin 4 bits, groups of 64",
    "cpm.cu": "marlin 4 bits, groups of 64",
    "cpm.cu columns": "marlin 4 bits, whole rows",
    "mlx 4": "mlx 4 bits, groups of 64",
    "mlx 3": "mlx 3 bits, groups of 32",
    "own": "minicpm 4 bits, groups of 32",
}


@torch.no_grad()
def logits(folder):
    return minicpm.load_decoder(folder, backend="torch").logits_for(torch.arange(20))


def config(folder, key="quantization_config", **changes):
    raw = json.loads((folder / "config.json").read_text())
    said = {name: value for name, value in (raw.get(key, {}) | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(raw | {key: said}))


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


@pytest.mark.parametrize("name", FORMATS)
def test_layout_bits_and_groups_are_told_without_reading_a_matrix(name, make):
    pair = make(name)
    opened = open_checkpoint(pair.quantized)
    rows = {"cpm.cu columns", "gptq 4 rows"}
    assert (
        {source.format for source in opened.packed.values()} == {FORMATS[name]} if name not in rows else True
    )
    assert set(opened.packed) == {f"{module}.weight" for module in pair.matrices}
    for module, weight in pair.matrices.items():
        source = opened.packed[f"{module}.weight"]
        assert (source.shape, source.bits, source.group) == (
            weight.shape,
            weight.scheme.bits,
            weight.scheme.group,
        )
    assert opened.total_bytes == sum(
        t.nbytes for t in load_file(pair.quantized / "model.safetensors").values()
    )


def test_opening_needs_no_torch(make):
    folder = make("cpm.cu").quantized
    code = (
        "import sys; from minicpm.checkpoint import open_checkpoint\n"
        "assert open_checkpoint(sys.argv[1]).packed\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(SRC)},
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", ["gptq 4", "awq", "marlin", "cpm.cu"])
@pytest.mark.parametrize("said", ["gptq", "awq", "marlin", None])
def test_tensors_decide_where_the_config_names_another_layout(name, said, make):
    pair = make(name)
    wanted = logits(pair.quantized)
    config(pair.quantized, quant_method=said, version=None)
    if said is None:
        raw = json.loads((pair.quantized / "config.json").read_text())
        del raw["quantization_config"]
        (pair.quantized / "config.json").write_text(json.dumps(raw))
    assert torch.equal(logits(pair.quantized), wanted)


def test_older_repositories_say_it_in_a_file_beside(make):
    pair = make("gptq 4")
    wanted = logits(pair.quantized)
    raw = json.loads((pair.quantized / "config.json").read_text())
    said = raw.pop("quantization_config")
    (pair.quantized / "config.json").write_text(json.dumps(raw))
    (pair.quantized / "quantize_config.json").write_text(
        json.dumps({"bits": 4, "group_size": said["group_size"]})
    )
    assert torch.equal(logits(pair.quantized), wanted)
    (pair.quantized / "quantize_config.json").write_text(json.dumps({"bits": 8}))
    with pytest.raises(MalformedFile, match="of 4 bits, and config"):
        open_checkpoint(pair.quantized)


@pytest.mark.parametrize(
    "file", ["model_gptq.safetensors", "model_gptq_marlin.safetensors", "gptq_model-4bit-128g.safetensors"]
)
def test_a_file_named_as_other_programs_name_it_is_found(file, make):
    folder = make("cpm.cu").quantized
    wanted = logits(folder)
    (folder / "model.safetensors").rename(folder / file)
    assert torch.equal(logits(folder), wanted)


def test_plain_tensors_beside_a_config_that_says_quantized_are_plain(make):
    """As unquantized weights of a model that was trained for it are published."""
    pair = make("gptq 4")
    config(pair.plain, quant_method="gptq", bits=4, group_size=128)
    assert not open_checkpoint(pair.plain).packed
    assert logits(pair.plain).isfinite().all()


@pytest.mark.parametrize(
    "method",
    ["compressed-tensors", "bitsandbytes", "fp8", "hqq", "quanto", "torchao", "auto-round", "\x1b[31m"],
)
def test_a_method_that_is_not_read_is_refused_by_name_with_what_to_take(method, make):
    folder = make("gptq 4").quantized
    config(folder, quant_method=method)
    with pytest.raises(UnknownFormat, match="--weights int8 or int4") as caught:
        open_checkpoint(folder)
    assert str(caught.value).isprintable()
    assert method in str(caught.value) or not method.isprintable()


@pytest.mark.parametrize(
    ("name", "key", "changes"),
    [
        ("awq", "quantization_config", {"version": "gemv"}),
        ("awq", "quantization_config", {"version": "gemv_fast"}),
        ("gptq 4", "quantization_config", {"checkpoint_format": "bitblas"}),
        ("mlx 4", "quantization", {"mode": "mxfp4"}),
        ("own", "quantization_config", {"format": 2}),
    ],
)
def test_a_variant_that_is_not_read_is_refused_by_name(name, key, changes, make):
    folder = make(name).quantized
    config(folder, key, **changes)
    with pytest.raises(UnknownFormat, match=str(next(iter(changes.values())))):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "key", "changes"),
    [
        ("gptq 4", "quantization_config", {"bits": "four"}),
        ("gptq 4", "quantization_config", {"bits": 0}),
        ("gptq 4", "quantization_config", {"bits": 10**30}),
        ("gptq 4", "quantization_config", {"bits": True}),
        ("gptq 4", "quantization_config", {"group_size": -2}),
        ("gptq 4", "quantization_config", {"group_size": 64.0}),
        ("gptq 4", "quantization_config", {"sym": "yes"}),
        ("gptq 4", "quantization_config", {"quant_method": 7}),
        ("gptq 4", "quantization_config", {"checkpoint_format": []}),
        ("mlx 4", "quantization", {"group_size": "large"}),
        ("mlx 4", "quantization", {MODULE: {"bits": [4], "group_size": 64}}),
        ("own", "quantization_config", {"default": 4}),
        ("own", "quantization_config", {"modules": [1]}),
        ("own", "quantization_config", {"modules": {MODULE: 4}}),
    ],
)
def test_settings_of_a_wrong_kind_are_refused(name, key, changes, make):
    folder = make(name).quantized
    config(folder, key, **changes)
    with pytest.raises(BadConfig, match="is needed"):
        open_checkpoint(folder)


@pytest.mark.parametrize("value", [[], "gptq", 4, True])
def test_settings_that_are_no_object_are_refused(value, make):
    folder = make("gptq 4").quantized
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"quantization_config": value}))
    with pytest.raises(BadConfig, match="an object is needed"):
        open_checkpoint(folder)


def put(end, tensor):
    return lambda tensors: tensors.update({f"{MODULE}.{end}": tensor})


def drop(*ends):
    return lambda tensors: [tensors.pop(f"{MODULE}.{end}") for end in ends]


INT, HALF = torch.int32, torch.float16
HOSTILE = {
    "scales missing": ("gptq 4", drop("scales"), "scales is missing"),
    "qzeros missing in an asymmetric grid": ("gptq v2 asymmetric", drop("qzeros"), "qzeros is missing"),
    "qweight of three dimensions": ("gptq 4", put("qweight", torch.zeros(2, 8, 256, dtype=INT)), "no matrix"),
    "qweight of one dimension": ("gptq 4", put("qweight", torch.zeros(256, dtype=INT)), "no matrix"),
    "qweight a scalar": (
        "gptq 4",
        put("qweight", torch.tensor(1, dtype=INT)),
        "neither GPTQ, AutoAWQ nor Marlin",
    ),
    "qweight of floats": ("gptq 4", put("qweight", torch.zeros(16, 256)), "qweight is F32"),
    "qweight of a strange width": ("gptq 4", put("qweight", torch.zeros(16, 77, dtype=INT)), "neither GPTQ"),
    "qweight too short": (
        "gptq 4",
        put("qweight", torch.zeros(15, 256, dtype=INT)),
        "integers [120] are needed",
    ),
    "qweight too long": (
        "gptq 4",
        put("qweight", torch.zeros(32, 256, dtype=INT)),
        "integers [256] are needed",
    ),
    "no inputs": ("gptq 4", put("qweight", torch.zeros(0, 256, dtype=INT)), "qweight is missing"),
    "scales of integers": ("gptq 4", put("scales", torch.zeros(2, 256, dtype=INT)), "scales is I32"),
    "scales of no groups": ("gptq 4", put("scales", torch.zeros(0, 256, dtype=HALF)), "scales is missing"),
    "groups that the config does not say": ("gptq 4", put("scales", torch.ones(4, 256, dtype=HALF)), "4, 32"),
    "qzeros of other bits": (
        "gptq 4",
        put("qzeros", torch.zeros(2, 64, dtype=INT)),
        "8 bits, and config.json",
    ),
    "qzeros of no bits": ("gptq 4", put("qzeros", torch.zeros(2, 33, dtype=INT)), "not of 2, 3, 4 or 8 bits"),
    "qzeros of other groups": ("gptq 4", put("qzeros", torch.zeros(3, 32, dtype=INT)), "[2, 32] is needed"),
    "g_idx too long": ("gptq 4", put("g_idx", torch.zeros(129, dtype=INT)), "integers [128] are needed"),
    "g_idx of floats": ("gptq 4", put("g_idx", torch.zeros(128)), "g_idx is F32"),
    "a plain weight as well": ("gptq 4", put("weight", torch.zeros(256, 128)), "in another form as well"),
    "three bits that fill no words": (
        "gptq 3",
        put("qweight", torch.zeros(13, 256, dtype=INT)),
        "no whole number",
    ),
    "awq without zeros": ("awq", drop("qzeros"), "qzeros is missing"),
    "awq of other inputs": (
        "awq",
        put("qweight", torch.zeros(100, 32, dtype=INT)),
        "no multiple of the group of 64",
    ),
    "awq zeros of another shape": ("awq", put("qzeros", torch.zeros(2, 31, dtype=INT)), "[2, 32] is needed"),
    "marlin without scales": ("marlin", drop("s"), "scales is missing"),
    "marlin of a strange width": ("marlin", put("B", torch.zeros(8, 500, dtype=INT)), "[8, 512] is needed"),
    "mlx without biases": ("mlx 4", drop("biases"), "biases is missing"),
    "mlx biases of another dtype": ("mlx 4", put("biases", torch.zeros(256, 2)), "biases is F32"),
    "mlx of strange bits": (
        "mlx 4",
        put("weight", torch.zeros(256, 28).to(torch.uint32)),
        "words for 128 inputs",
    ),
    "mlx of bits that are not said": (
        "mlx 4",
        put("weight", torch.zeros(256, 32).to(torch.uint32)),
        "of 8 bits, and config.json says 4",
    ),
    "codes of another width": (
        "own",
        put("codes", torch.zeros(256, 63, dtype=torch.uint8)),
        "[256, 64] is needed",
    ),
    "codes of another dtype": ("own", put("codes", torch.zeros(256, 64)), "codes is F32"),
    "no zeros where they are said": ("own", drop("zeros"), "zeros or offsets are needed"),
    "zeros and offsets": ("own", put("offsets", torch.zeros(256, 4)), "zeros and offsets"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_tensors_that_do_not_fit_each_other_are_refused_from_their_headers(name, make):
    layout, change, said = HOSTILE[name]
    folder = make(layout).quantized
    edit(folder, change)
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(MalformedFile, match=r"1 of 2[1-3] quantized matrices") as caught:
        open_checkpoint(folder)
    elapsed, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said in str(caught.value), str(caught.value)
    assert MODULE in str(caught.value)
    # The list promises 50 ms; tracing makes Python several times slower.
    assert elapsed < 0.5
    assert peak < 64 << 20


def test_every_matrix_that_cannot_be_read_is_named_in_one_message(make):
    folder = make("gptq 4").quantized
    edit(
        folder,
        lambda tensors: [tensors.pop(name) for name in list(tensors) if name.endswith("up_proj.scales")],
    )
    with pytest.raises(MalformedFile, match="3 of 21") as caught:
        open_checkpoint(folder)
    for number in range(3):
        assert f"model.layers.{number}.mlp.up_proj: scales is missing" in str(caught.value)


def test_inputs_that_no_group_divides_are_refused_with_what_to_do(make):
    folder = make("gptq 4").quantized
    edit(folder, put("scales", torch.ones(3, 256, dtype=HALF)))
    edit(folder, put("qweight", torch.zeros(20, 256, dtype=INT)))
    edit(folder, put("qzeros", torch.zeros(3, 32, dtype=INT)))
    edit(folder, drop("g_idx"))
    with pytest.raises(
        MalformedFile, match=r"160 inputs are no multiple of the group of 64.*quantize it anew"
    ):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a\x1b[31m", "", "qweight", "." * 200])
def test_a_hostile_name_is_only_a_name(name, make):
    pair = make("gptq 4")

    def rename(tensors):
        for end in ("qweight", "scales", "qzeros", "g_idx"):
            tensors[f"{name}.{end}" if name else end] = tensors.pop(f"{MODULE}.{end}")

    edit(pair.quantized, rename)
    with pytest.raises(CheckpointError, match=r"1 missing: model\.layers\.1\.mlp\.up_proj\.weight") as caught:
        minicpm.load_decoder(pair.quantized)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("heads", [None, "8", 0, 7, 2**40])
def test_joined_matrices_that_the_config_does_not_cut_are_refused(heads, make):
    folder = make("cpm.cu").quantized
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(raw | {"num_attention_heads": heads, "num_key_value_heads": None})
    )
    with pytest.raises(MalformedFile, match="3 of 12 quantized matrices"):
        open_checkpoint(folder)


def test_a_pointer_and_an_absent_shard_are_told_as_for_any_model(make):
    folder = make("gptq 4").quantized
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    with pytest.raises(LfsPointer):
        open_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(NotACheckpoint):
        open_checkpoint(folder)


def test_thousands_of_mutated_headers_are_read_or_refused(make):
    """Shapes, dtypes and names changed at random: typed errors only, whatever they say."""
    import random

    from minicpm.checkpoint.header import ITEM_BYTES, TensorInfo, read_header
    from minicpm.checkpoint.layouts.recognition import recognise
    from minicpm.errors import MiniCPMError

    random.seed(0)
    sources = {}
    for name in ("gptq 3", "awq", "cpm.cu", "mlx 4", "own"):
        folder = make(name).quantized
        sources[name] = (
            read_header(folder / "model.safetensors"),
            json.loads((folder / "config.json").read_text()),
        )
    words = [
        "qweight",
        "scales",
        "qzeros",
        "g_idx",
        "codes",
        "weight",
        "biases",
        "B",
        "s",
        "zeros",
        "offsets",
        "qkv_proj",
    ]
    numbers = [0, 1, 2, 3, 7, 8, 16, 31, 64, 128, 255, 2**31, 2**62]
    accepted = 0
    for _ in range(3000):
        header, raw = random.choice(list(sources.values()))
        changed = dict(header)
        for _ in range(random.randint(1, 3)):
            name = random.choice(list(changed))
            info = changed.pop(name)
            shape, dtype = list(info.shape), info.dtype
            match random.randrange(4):
                case 0:
                    name = name.rpartition(".")[0] + "." + random.choice(words)
                case 1 if shape:
                    shape[random.randrange(len(shape))] = random.choice(numbers)
                case 2:
                    shape = random.choices(numbers, k=random.randrange(4))
                case _:
                    dtype = random.choice(list(ITEM_BYTES))
            changed[name] = TensorInfo(tuple(shape), dtype, info.file, info.offset, info.nbytes)
        with suppress(MiniCPMError):
            found = recognise(changed, raw, Path("folder"))
            accepted += 1
            assert all(rows > 0 and columns > 0 for rows, columns in (s.shape for s in found.packed.values()))
    assert accepted > 100
