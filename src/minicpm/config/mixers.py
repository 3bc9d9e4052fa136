"""The token mixers a layer may hold, as frozen data.

Each says how many weights it has and what it remembers: `page_values` numbers per page of 64 tokens, in the
cache's dtype, and `state_values` float32 numbers per sequence, however long. `page_vectors` of these numbers
are whole keys and values, which may be held in fewer bits than the rest.
"""

from dataclasses import dataclass

PAGE_TOKENS = 64


@dataclass(frozen=True, slots=True)
class GQA:
    """Grouped-query attention: query head h reads key/value head h // (heads / kv_heads).

    `rotary` False leaves queries and keys unrotated; `gated` multiplies the output by a sigmoid gate of the
    input.
    """

    heads: int
    kv_heads: int
    head_dim: int
    rotary: bool = True
    gated: bool = False

    @property
    def group(self) -> int:
        """Query heads per key/value head."""
        return self.heads // self.kv_heads

    @property
    def page_vectors(self) -> int:
        """Keys and values of a page, each of `head_dim` numbers."""
        return PAGE_TOKENS * 2 * self.kv_heads

    @property
    def page_values(self) -> int:
        """Keys and values of a page."""
        return self.page_vectors * self.head_dim

    @property
    def state_values(self) -> int:
        """Nothing is kept per sequence."""
        return 0

    def weights(self, hidden: int) -> int:
        """Number of weights at this width of the residual stream."""
        gate = self.heads if self.gated else 0
        return hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads + gate)


@dataclass(frozen=True, slots=True)
class SparseConfig:
    """InfLLM-V2 geometry in tokens, except `topk`, `init_blocks` and `local_blocks`, which count blocks.

    `local_blocks` None means as many as cover a window of `window_size` tokens from anywhere in a block.
    """

    kernel_size: int = 32
    kernel_stride: int = 16
    init_blocks: int = 1
    block_size: int = 64
    window_size: int = 2048
    topk: int = 64
    use_nope: bool = False
    dense_len: int = 8192
    local_blocks: int | None = None


@dataclass(frozen=True, slots=True)
class InfLLM:
    """Attention to the blocks a query finds most relevant (InfLLM-V2, arXiv 2509.24663)."""

    attention: GQA
    sparse: SparseConfig

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.attention.heads

    @property
    def kv_heads(self) -> int:
        """Key/value heads."""
        return self.attention.kv_heads

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.attention.head_dim

    @property
    def scores_unrotated(self) -> bool:
        """Blocks are chosen by queries and keys before rotation, which attention itself rotates."""
        return self.sparse.use_nope and self.attention.rotary

    @property
    def page_vectors(self) -> int:
        """Keys and values of a page, and unrotated keys where they choose, each of `head_dim` numbers."""
        return self.attention.page_vectors + PAGE_TOKENS * self.kv_heads * self.scores_unrotated

    @property
    def page_values(self) -> int:
        """All vectors of a page, and one compressed key per stride."""
        compressed = PAGE_TOKENS // self.sparse.kernel_stride * self.kv_heads
        return (self.page_vectors + compressed) * self.head_dim

    @property
    def state_values(self) -> int:
        """Nothing is kept per sequence."""
        return 0

    def weights(self, hidden: int) -> int:
        """Number of weights at this width of the residual stream."""
        return self.attention.weights(hidden)


@dataclass(frozen=True, slots=True)
class MLA:
    """Latent attention (DeepSeek-V2, arXiv 2405.04434): keys and values are made from one latent per token.

    `nope` and `rope` are the unrotated and rotated widths of a query or key head, `value` that of a value
    head; `inner_eps` is the eps of the two latent norms.
    """

    heads: int
    q_rank: int
    kv_rank: int
    nope: int
    rope: int
    value: int
    inner_eps: float = 1e-6

    @property
    def kv_heads(self) -> int:
        """Every query head has its own key and value."""
        return self.heads

    @property
    def head_dim(self) -> int:
        """Width of a query or key head."""
        return self.nope + self.rope

    @property
    def page_vectors(self) -> int:
        """No keys and values are kept."""
        return 0

    @property
    def page_values(self) -> int:
        """Latents and rotated keys of a page."""
        return PAGE_TOKENS * (self.kv_rank + self.rope)

    @property
    def state_values(self) -> int:
        """Nothing is kept per sequence."""
        return 0

    def weights(self, hidden: int) -> int:
        """Number of weights at this width of the residual stream, the two latent norms included."""
        queries = self.q_rank * (hidden + 1 + self.heads * self.head_dim)
        latents = hidden * (self.kv_rank + self.rope) + self.kv_rank
        expanded = self.kv_rank * self.heads * (self.nope + self.value)
        return queries + latents + expanded + self.heads * self.value * hidden


@dataclass(frozen=True, slots=True)
class Lightning:
    """Linear attention with one constant decay per head (Lightning Attention, arXiv 2401.04658).

    `scale` multiplies the queries. Norms of queries and keys, rotation, norm of the output and its gate are
    each there or not.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rotary: bool = True
    qk_norm: bool = True
    output_norm: bool = True
    gated: bool = True

    @property
    def page_vectors(self) -> int:
        """No keys and values are kept."""
        return 0

    @property
    def page_values(self) -> int:
        """Nothing is kept per token."""
        return 0

    @property
    def state_values(self) -> int:
        """One matrix per head."""
        return self.heads * self.head_dim**2

    def weights(self, hidden: int) -> int:
        """Number of weights at this width of the residual stream, the norms included."""
        width = self.heads * self.head_dim
        matrices = hidden * (2 * width + 2 * self.kv_heads * self.head_dim + width * self.gated)
        return matrices + 2 * self.head_dim * self.qk_norm + width * self.output_norm


Mixer = GQA | InfLLM | MLA | Lightning
