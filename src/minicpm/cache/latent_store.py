"""What latent attention remembers of one layer, one row per cached token."""

import torch
from torch import Tensor

from minicpm.cache.pages import PAGE
from minicpm.cache.token_store import Rows, grown


class LatentStore:
    """`latents` [pages * 64, width]: normalised latent and rotated shared key, rows as in `TokenStore`."""

    def __init__(self, pages: int, width: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.latents = torch.empty((pages * PAGE, width), dtype=dtype, device=device)

    def write(self, rows: Rows, latents: Tensor) -> None:
        """Store latents [T, width] at `rows`."""
        self.latents[rows] = latents.to(self.latents.dtype)

    def read(self, rows: Rows) -> Tensor:
        """Latents [n, width] at `rows`: a view for a slice, a copy for an index."""
        return self.latents[rows]

    def grow(self, pages: int) -> None:
        """Make room for `pages` pages in all and keep what is held."""
        self.latents = grown(self.latents, pages * PAGE)

    def copy_page(self, source: int, target: int) -> None:
        """Copy all rows of one page to another."""
        pages = self.latents.unflatten(0, (-1, PAGE))
        pages[target] = pages[source]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.latents.nbytes
