"""The perceiver resampler (arXiv:2204.14198): a fixed number of learned queries reads all patches."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from minicpm.config.vision import FreshPositions, Perceiver, ResizedPositions
from minicpm.models.vision.attention import attend_all
from minicpm.models.vision.initial import fixed_positions, small_random
from minicpm.models.vision.patches import Patches
from minicpm.models.vision.positions import Grid, resized, sincos_2d


class Resampler(nn.Module):
    """query and pos_embed [Q, D], kv_proj [D, Dv], ln_kv, ln_q, attn, ln_post, and proj [D, D].

    pos_embed is the fixed sine-cosine table of the query grid, a parameter because checkpoints store it, but
    not trained. Patches as wide as the output have no kv_proj.
    """

    def __init__(self, config: Perceiver, *, patch_width: int, hidden: int) -> None:
        super().__init__()
        self._config = config
        self._grid = Grid(config.side, config.side)
        self.query = nn.Parameter(small_random(config.queries, hidden))
        self.pos_embed = nn.Parameter(fixed_positions(self._grid, hidden), requires_grad=False)
        self.kv_proj = _projection(patch_width, hidden)
        self.attn = _Attention(hidden, config.heads)
        self.ln_q = nn.LayerNorm(hidden, eps=config.eps)
        self.ln_kv = nn.LayerNorm(hidden, eps=config.eps)
        self.ln_post = nn.LayerNorm(hidden, eps=config.eps)
        self.proj = nn.Parameter(small_random(hidden, hidden))

    def forward(self, patches: Patches) -> Tensor:
        """[N, Q, D]: ln_post(attention of queries + positions over patches + positions) @ proj."""
        x = self.ln_kv(self.kv_proj(patches.vectors))
        queries = (self.ln_q(self.query) + self.pos_embed).expand(len(x), -1, -1)
        positions = _key_positions(self._config.positions, self.pos_embed, self._grid, patches.grid)
        return self.ln_post(self.attn(queries, x + positions, x)) @ self.proj


def _projection(patch_width: int, hidden: int) -> nn.Module:
    return nn.Identity() if patch_width == hidden else nn.Linear(patch_width, hidden, bias=False)


def _key_positions(kind: ResizedPositions | FreshPositions, table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Positions [h * w, D] of the patches of a `new` grid; `table` holds those of the query grid."""
    match kind:
        case ResizedPositions():
            return resized(table, old, new, antialias=False)
        case FreshPositions():
            return sincos_2d(new, table.shape[1], device=table.device).to(table.dtype)


class _Attention(nn.Module):
    """in_proj_weight [3 D, D] and in_proj_bias [3 D] for q, k and v; out_proj [D, D] with bias."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(small_random(3 * hidden, hidden))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * hidden))
        self.out_proj = nn.Linear(hidden, hidden)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries [N, Q, D] over keys and values [N, T, D], to [N, Q, D]."""
        parts = zip(self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        q, k, v = (linear(x, weight, bias) for x, (weight, bias) in zip((q, k, v), parts, strict=True))
        return self.out_proj(attend_all(q, k, v, self.heads))
