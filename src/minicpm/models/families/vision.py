"""What the configs of models that see share: a tower by its name, a resampler, an image size."""

from dataclasses import replace
from math import isqrt

from minicpm.config import RawConfig
from minicpm.config.vision import Eva, FreshPositions, Perceiver, ResizedPositions, Siglip, Tower

# Names of timm; a suffix after a dot tells which weights a tower started from, and changes no shape.
SIGLIP_SO400M = "vit_so400m_patch14_siglip_384"
EVA_E = "eva02_enormous_patch14_clip_224"
_TOWERS: dict[str, Tower] = {
    SIGLIP_SO400M: Siglip(hidden=1152, layers=27, heads=16, intermediate=4304, patch=14, grid=27),
    EVA_E: Eva(hidden=1792, layers=64, heads=16, intermediate=15360, patch=14, grid=16),
}
_HEAD_WIDTH = 128
_LARGEST_IMAGE = 4096
_MOST_QUERIES = 4096


def read_tower(raw: RawConfig, *, key: str, name: str) -> Tower:
    """The tower that `key` names, with the sizes of an optional `vision_config` in place of its own.

    `vision_config` has the keys hidden_size, num_hidden_layers, num_attention_heads, intermediate_size,
    patch_size and image_size, the last one being the size that positions were learned for.
    """
    known = _TOWERS.get(name.partition(".")[0])
    if known is None:
        raw.problem(f"{key} is {name!r:.80}, and the known ones are {', '.join(_TOWERS)}")
        return _TOWERS[SIGLIP_SO400M]
    sizes = raw.child("vision_config")
    return known if sizes is None else _resized(sizes, known)


def _resized(sizes: RawConfig, tower: Tower) -> Tower:
    patch = sizes.integer("patch_size", tower.patch, most=_LARGEST_IMAGE)
    learned = sizes.integer("image_size", tower.grid * tower.patch, most=_LARGEST_IMAGE)
    tower = replace(
        tower,
        hidden=sizes.integer("hidden_size", tower.hidden),
        layers=sizes.integer("num_hidden_layers", tower.layers, most=_LARGEST_IMAGE),
        heads=sizes.integer("num_attention_heads", tower.heads),
        intermediate=sizes.integer("intermediate_size", tower.intermediate),
        patch=patch,
        grid=max(learned // patch, 1),
    )
    if tower.hidden % tower.heads:
        sizes.problem(f"hidden_size {tower.hidden} is not a multiple of num_attention_heads {tower.heads}")
    return tower


def without_last(tower: Tower) -> Tower:
    """The tower with its last block left out, as it is where features are wanted rather than a summary."""
    return replace(tower, layers=max(tower.layers - 1, 0))


def read_resampler(
    raw: RawConfig, *, key: str, hidden: int, positions: ResizedPositions | FreshPositions
) -> Perceiver:
    """The resampler of `key` queries, a square number, with heads 128 wide."""
    queries = raw.integer(key, 64, most=_MOST_QUERIES)
    side = isqrt(queries)
    if side * side != queries:
        raw.problem(f"{key} is {queries}, and the queries form a square, such as 64 = 8 x 8")
    heads = max(hidden // _HEAD_WIDTH, 1)
    if raw.sound("hidden_size") and (hidden % heads or hidden % 4):
        raw.problem(
            f"hidden_size {hidden} does not divide into {heads} heads of the resampler and its positions"
        )
    return Perceiver(side, heads, positions)


def read_image_size(raw: RawConfig) -> int:
    """The side of the square that images are resized to; 448 unless said."""
    return raw.integer("image_size", 448, most=_LARGEST_IMAGE)
