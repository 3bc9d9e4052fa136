"""The image towers and the resampler equal other implementations of the same mathematics."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from minicpm.config.vision import Eva, FreshPositions, Perceiver, ResizedPositions, Siglip
from minicpm.models.vision.patches import PatchEmbedding, Patches
from minicpm.models.vision.positions import Grid, resized, sincos_2d
from minicpm.models.vision.resampler import Resampler
from minicpm.models.vision.tower import build_tower

# Sums of some hundred float32 products in another order.
FLOAT32 = 1e-5
TIMM = "timm and torchvision are not installed; `pip install timm torchvision` runs this comparison"

SIGLIP = Siglip(hidden=24, layers=3, heads=3, intermediate=40, patch=4, grid=5)
EVA = Eva(hidden=24, layers=3, heads=3, intermediate=40, patch=4, grid=3)
EVERY_TOWER = pytest.mark.parametrize("config", [SIGLIP, EVA], ids=["siglip", "eva"])


def randomised(module, seed=0):
    """The module with every weight drawn, so that no bias is zero and no gain one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * (0.3 if weight.ndim > 1 else 0.5))
    return module.eval()


def image(height, width, count=1, seed=1):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def relative(ours, theirs):
    return float(((ours - theirs).abs().max() / theirs.abs().max()).detach())


# --- plain loops in float64 ---------------------------------------------------------------------------------


def layer_norm(x, state, name, eps):
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * state[f"{name}.weight"] + state[f"{name}.bias"]


def erf_gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def slow_attention(q, k, v, heads):
    out = np.zeros_like(q)
    width = q.shape[1] // heads
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for i in range(len(q)):
            scores = np.array([q[i, part] @ k[j, part] for j in range(len(k))]) / math.sqrt(width)
            shares = np.exp(scores - scores.max())
            shares /= shares.sum()
            for j in range(len(k)):
                out[i, part] += shares[j] * v[j, part]
    return out


def slow_patches(pixels, state, patch):
    """[h * w, D] of one image [3, H, W], zeros right and below."""
    channels, height, width = pixels.shape
    rows, columns = -(-height // patch), -(-width // patch)
    padded = np.zeros((channels, rows * patch, columns * patch))
    padded[:, :height, :width] = pixels
    weight = state["patch_embed.proj.weight"].reshape(-1, channels * patch * patch)
    cut = [
        padded[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].reshape(-1)
        for r in range(rows)
        for c in range(columns)
    ]
    return np.array([weight @ values for values in cut]) + state["patch_embed.proj.bias"], (rows, columns)


def cubic(x, a):
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def resize_matrix(old, new, *, antialias):
    """[new, old] weights of one axis.

    Plain bicubic has a = -0.75 and repeats the border; the antialiased form has a = -0.5, widens its kernel
    when it shrinks, and forgets what lies outside.
    """
    matrix, scale = np.zeros((new, old)), old / new
    for i in range(new):
        centre = (i + 0.5) * scale
        if antialias:
            stretch = max(scale, 1.0)
            weights = np.array([cubic((j + 0.5 - centre) / stretch, -0.5) for j in range(old)])
            matrix[i] = weights / weights.sum()
        else:
            below = math.floor(centre - 0.5)
            for j in range(below - 1, below + 3):
                matrix[i, min(max(j, 0), old - 1)] += cubic(j + 0.5 - centre, -0.75)
    return matrix


def slow_resize(table, old, new, *, antialias):
    rows = resize_matrix(old[0], new[0], antialias=antialias)
    columns = resize_matrix(old[1], new[1], antialias=antialias)
    grid = np.asarray(table, dtype=np.float64).reshape(*old, -1)
    return np.einsum("ia,jb,abd->ijd", rows, columns, grid).reshape(new[0] * new[1], -1)


def slow_tower(config, module, pixels):
    """One image [3, H, W] through either tower, token by token, in float64."""
    state = {name: weight.detach().double().numpy() for name, weight in module.named_parameters()}
    x, grid = slow_patches(pixels.double().numpy(), state, config.patch)
    table, old = state["pos_embed"][0], (config.grid, config.grid)
    eva = isinstance(config, Eva)
    patches = table[1:] if eva else table
    x = x + (patches if grid == old else slow_resize(patches, old, grid, antialias=True))
    if eva:
        x = np.concatenate([state["cls_token"][0] + table[:1], x])
    for i in range(config.layers):
        x = (slow_eva_block if eva else slow_siglip_block)(x, state, f"blocks.{i}", config)
    x = layer_norm(x, state, "norm", config.eps)
    return torch.tensor(x[1:] if eva else x)


def slow_siglip_block(x, state, name, config):
    qkv = layer_norm(x, state, f"{name}.norm1", config.eps) @ state[f"{name}.attn.qkv.weight"].T
    q, k, v = np.split(qkv + state[f"{name}.attn.qkv.bias"], 3, axis=1)
    x = x + slow_projection(slow_attention(q, k, v, config.heads), state, f"{name}.attn.proj")
    return x + slow_mlp(layer_norm(x, state, f"{name}.norm2", config.eps), state, f"{name}.mlp")


def slow_eva_block(x, state, name, config):
    q, k, v = np.split(x @ state[f"{name}.attn.qkv.weight"].T, 3, axis=1)
    q, v = q + state[f"{name}.attn.q_bias"], v + state[f"{name}.attn.v_bias"]
    mixed = slow_projection(slow_attention(q, k, v, config.heads), state, f"{name}.attn.proj")
    x = x + layer_norm(mixed, state, f"{name}.norm1", config.eps)
    return x + layer_norm(slow_mlp(x, state, f"{name}.mlp"), state, f"{name}.norm2", config.eps)


def slow_projection(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def slow_mlp(x, state, name):
    return slow_projection(erf_gelu(slow_projection(x, state, f"{name}.fc1")), state, f"{name}.fc2")


# --- towers -------------------------------------------------------------------------------------------------


@EVERY_TOWER
@pytest.mark.parametrize(("height", "width"), [(20, 20), (12, 12), (28, 28), (9, 22), (4, 4), (1, 3)])
def test_a_tower_equals_plain_loops_at_any_size(config, height, width):
    tower = randomised(build_tower(config))
    pixels = image(height, width)
    patches = tower(pixels)
    assert patches.grid == (-(-height // config.patch), -(-width // config.patch))
    assert relative(patches.vectors[0].double(), slow_tower(config, tower, pixels[0])) < FLOAT32


@EVERY_TOWER
def test_images_of_a_batch_do_not_touch_each_other(config):
    tower = randomised(build_tower(config))
    pixels = image(12, 12, count=3)
    alone = torch.cat([tower(one[None]).vectors for one in pixels])
    assert relative(tower(pixels).vectors, alone) < FLOAT32


@EVERY_TOWER
def test_every_weight_of_a_tower_takes_part_and_is_counted(config):
    tower = randomised(build_tower(config))
    # Squared, because the sum over a normalised vector has no gradient.
    tower(image(12, 16)).vectors.square().sum().backward()
    untouched = [name for name, weight in tower.named_parameters() if weight.grad is None]
    assert untouched == []
    assert sum(weight.numel() for weight in tower.parameters()) == config.weights


def test_the_published_towers_have_the_published_number_of_weights():
    # 27 blocks of SigLIP So400m without the pooling head, and all 64 blocks of EVA-02-CLIP-E's image side.
    siglip = Siglip(hidden=1152, layers=27, heads=16, intermediate=4304, patch=14, grid=27)
    eva = Eva(hidden=1792, layers=64, heads=16, intermediate=15360, patch=14, grid=16)
    with torch.device("meta"):
        for config in (siglip, eva):
            assert sum(weight.numel() for weight in build_tower(config).parameters()) == config.weights
    assert siglip.weights == 412_987_248
    assert 4.3e9 < eva.weights < 4.4e9


def test_siglip_equals_transformers():
    transformers = pytest.importorskip("transformers", reason="`pip install transformers` runs this")
    config = transformers.SiglipVisionConfig(
        hidden_size=SIGLIP.hidden,
        intermediate_size=SIGLIP.intermediate,
        num_hidden_layers=SIGLIP.layers,
        num_attention_heads=SIGLIP.heads,
        image_size=SIGLIP.grid * SIGLIP.patch,
        patch_size=SIGLIP.patch,
        layer_norm_eps=SIGLIP.eps,
        hidden_act="gelu",  # the exact one; its own default approximates
        vision_use_head=False,
    )
    theirs = transformers.SiglipVisionModel(config).eval()
    ours = randomised(build_tower(SIGLIP))
    theirs.load_state_dict(_as_transformers(ours.state_dict(), theirs.state_dict().keys()), strict=True)
    pixels = image(20, 20, count=2)
    with torch.no_grad():
        assert relative(ours(pixels).vectors, theirs(pixel_values=pixels).last_hidden_state) < FLOAT32


def _as_transformers(state, wanted):
    renamed = {}
    for name, weight in state.items():
        parts = weight.chunk(3) if ".qkv." in name else [weight]
        for part, letter in zip(parts, "qkv", strict=False):
            new = name.replace("blocks.", "encoder.layers.").replace(
                "patch_embed.proj", "embeddings.patch_embedding"
            )
            new = new.replace("attn.qkv", f"self_attn.{letter}_proj").replace(
                "attn.proj", "self_attn.out_proj"
            )
            new = new.replace("norm1", "layer_norm1").replace("norm2", "layer_norm2")
            new = new.replace("pos_embed", "embeddings.position_embedding.weight")
            new = f"post_layernorm.{new[5:]}" if new.startswith("norm.") else new
            renamed[new] = part[0] if name == "pos_embed" else part
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in wanted) else ""
    return {prefix + name: weight for name, weight in renamed.items()}


@pytest.mark.parametrize(
    ("config", "name"),
    [(SIGLIP, "vit_so400m_patch14_siglip_384"), (EVA, "eva02_enormous_patch14_clip_224")],
    ids=["siglip", "eva"],
)
@pytest.mark.parametrize(("height", "width"), [(12, 12), (20, 20), (26, 11), (31, 32)])
def test_a_tower_equals_timm(config, name, height, width):
    timm = pytest.importorskip("timm", reason=TIMM)
    theirs = timm.create_model(
        name,
        pretrained=False,
        num_classes=0,
        img_size=config.grid * config.patch,
        patch_size=config.patch,
        embed_dim=config.hidden,
        depth=config.layers + 1,
        num_heads=config.heads,
        mlp_ratio=config.intermediate / config.hidden,
        dynamic_img_size=True,
        dynamic_img_pad=True,
    ).eval()
    theirs.attn_pool = nn.Identity()
    theirs.blocks = theirs.blocks[:-1]
    ours = randomised(build_tower(config))
    theirs.load_state_dict(ours.state_dict(), strict=True)
    pixels = image(height, width, count=2)
    with torch.no_grad():
        features = theirs.forward_features(pixels)[:, theirs.num_prefix_tokens :]
        assert relative(ours(pixels).vectors, features) < FLOAT32


# --- positions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("antialias", [True, False], ids=["antialiased", "plain"])
@pytest.mark.parametrize("new", [(7, 7), (2, 3), (1, 1), (4, 9), (13, 2)], ids=str)
def test_resized_positions_equal_the_kernel_written_out(new, antialias):
    table = torch.randn(20, 6, generator=torch.Generator().manual_seed(3))
    got = resized(table, Grid(4, 5), Grid(*new), antialias=antialias).double()
    assert relative(got, torch.tensor(slow_resize(table, (4, 5), new, antialias=antialias))) < FLOAT32


def test_positions_of_the_same_grid_are_untouched():
    table = torch.randn(20, 6).bfloat16()
    assert resized(table, Grid(4, 5), Grid(4, 5), antialias=True) is table
    assert resized(table, Grid(4, 5), Grid(5, 4), antialias=True).dtype == torch.bfloat16


def test_sine_cosine_positions_say_the_column_first_and_then_the_row():
    table, width = sincos_2d(Grid(3, 5), 16), 16
    for row in range(3):
        for column in range(5):
            expected = []
            for place in (column, row):
                omega = [10000 ** (-j / (width / 4)) for j in range(width // 4)]
                expected += [math.sin(place * w) for w in omega] + [math.cos(place * w) for w in omega]
            assert table[row * 5 + column].tolist() == pytest.approx(expected, abs=1e-7)


def test_padding_of_an_image_is_zeros_at_the_right_and_bottom():
    embedding = randomised(PatchEmbedding(SIGLIP))
    pixels = image(6, 9)
    whole = torch.zeros(1, 3, 8, 12)
    whole[:, :, :6, :9] = pixels
    assert torch.equal(embedding(pixels).vectors, embedding(whole).vectors)
    assert embedding(pixels).grid == (2, 3)


# --- resampler ----------------------------------------------------------------------------------------------

WIDTH, HIDDEN, SIDE = 20, 32, 3
KINDS = pytest.mark.parametrize("positions", [ResizedPositions(), FreshPositions()], ids=["resized", "fresh"])


def resampler(positions, *, patch_width=WIDTH, heads=4):
    """Random weights over the real table of positions."""
    module = Resampler(Perceiver(SIDE, heads, positions), patch_width=patch_width, hidden=HIDDEN)
    table = module.pos_embed.detach().clone()
    randomised(module)
    module.pos_embed.data.copy_(table)
    return module


def seen_patches(grid, count=1, width=WIDTH, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return Patches(torch.randn(count, grid[0] * grid[1], width, generator=generator), Grid(*grid))


def key_positions(module, positions, grid):
    table = module.pos_embed.detach()
    if isinstance(positions, FreshPositions):
        return sincos_2d(Grid(*grid), HIDDEN).double().numpy()
    if grid == (SIDE, SIDE):
        return table.double().numpy()
    return slow_resize(table, (SIDE, SIDE), grid, antialias=False)


@KINDS
@pytest.mark.parametrize("grid", [(3, 3), (8, 8), (1, 1), (2, 5)], ids=str)
def test_a_resampler_equals_plain_loops(positions, grid):
    module = resampler(positions)
    seen = seen_patches(grid)
    state = {name: weight.detach().double().numpy() for name, weight in module.named_parameters()}
    x = layer_norm(seen.vectors[0].double().numpy() @ state["kv_proj.weight"].T, state, "ln_kv", 1e-6)
    q = layer_norm(state["query"], state, "ln_q", 1e-6) + state["pos_embed"]
    inputs = (q, x + key_positions(module, positions, grid), x)
    weights = zip(
        np.split(state["attn.in_proj_weight"], 3), np.split(state["attn.in_proj_bias"], 3), strict=True
    )
    q, k, v = (rows @ weight.T + bias for rows, (weight, bias) in zip(inputs, weights, strict=True))
    mixed = slow_attention(q, k, v, heads=4) @ state["attn.out_proj.weight"].T + state["attn.out_proj.bias"]
    expected = layer_norm(mixed, state, "ln_post", 1e-6) @ state["proj"]
    assert relative(module(seen)[0].double(), torch.tensor(expected)) < FLOAT32


@KINDS
def test_its_attention_is_that_of_torch_under_the_same_names(positions):
    module = resampler(positions)
    theirs = nn.MultiheadAttention(HIDDEN, 4, batch_first=True)
    theirs.load_state_dict(module.attn.state_dict(), strict=True)
    seen = seen_patches((4, 4), count=3)
    with torch.no_grad():
        x = module.ln_kv(module.kv_proj(seen.vectors))
        q = (module.ln_q(module.query) + module.pos_embed).repeat(3, 1, 1)
        positions_k = torch.tensor(key_positions(module, positions, (4, 4))).float()
        mixed, _ = theirs(q, x + positions_k, x, need_weights=False)
        assert relative(module(seen), module.ln_post(mixed) @ module.proj) < FLOAT32


def test_names_and_shapes_are_the_published_ones():
    shapes = {
        name: tuple(weight.shape) for name, weight in resampler(ResizedPositions()).state_dict().items()
    }
    norms = {f"{n}.{w}": (HIDDEN,) for n in ("ln_q", "ln_kv", "ln_post") for w in ("weight", "bias")}
    assert shapes == norms | {
        "query": (9, HIDDEN),
        "pos_embed": (9, HIDDEN),
        "kv_proj.weight": (HIDDEN, WIDTH),
        "attn.in_proj_weight": (3 * HIDDEN, HIDDEN),
        "attn.in_proj_bias": (3 * HIDDEN,),
        "attn.out_proj.weight": (HIDDEN, HIDDEN),
        "attn.out_proj.bias": (HIDDEN,),
        "proj": (HIDDEN, HIDDEN),
    }


@pytest.mark.parametrize("patch_width", [WIDTH, HIDDEN])
def test_its_weights_are_counted(patch_width):
    module = resampler(ResizedPositions(), patch_width=patch_width)
    counted = Perceiver(SIDE, 4, ResizedPositions()).weights(patch_width, HIDDEN)
    assert sum(weight.numel() for weight in module.parameters()) == counted


def test_patches_as_wide_as_the_output_are_not_projected():
    module = resampler(ResizedPositions(), patch_width=HIDDEN)
    assert "kv_proj.weight" not in module.state_dict()
    assert module(seen_patches((2, 2), width=HIDDEN)).shape == (1, 9, HIDDEN)


def test_the_table_is_the_fixed_one_and_stays_untrained():
    module = Resampler(Perceiver(SIDE, 4, ResizedPositions()), patch_width=WIDTH, hidden=HIDDEN)
    assert torch.equal(module.pos_embed, sincos_2d(Grid(SIDE, SIDE), HIDDEN))
    module(seen_patches((4, 4))).square().sum().backward()
    assert module.pos_embed.grad is None
    assert all(w.grad is not None for n, w in module.named_parameters() if n != "pos_embed")


def test_both_kinds_of_positions_agree_on_the_grid_of_the_queries():
    resized, fresh = resampler(ResizedPositions()), resampler(FreshPositions())
    seen = seen_patches((SIDE, SIDE))
    assert torch.equal(resized(seen), fresh(seen))
