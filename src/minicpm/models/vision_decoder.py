"""The decoder with a tower and a resampler beside it, for models that see."""

from typing import Any

import torch
from torch import Tensor, nn

from minicpm.config import ModelConfig
from minicpm.models.decoder import Decoder
from minicpm.models.vision.resampler import Resampler
from minicpm.models.vision.tower import build_tower


class VisionDecoder(Decoder):
    """A decoder whose prompts may hold images.

    The config's weight names say under which prefixes decoder, tower and resampler are registered, so that
    `state_dict` shows the published names. `model` and `lm_head` are found under the decoder's prefix too.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        vision = config.vision
        assert vision is not None, "a decoder that sees needs config.vision"
        self._names = vision.names
        if vision.names.text:
            self._move_weights(vision.names.text)
        tower = build_tower(vision.tower)
        resampler = Resampler(vision.resampler, patch_width=vision.tower.hidden, hidden=config.hidden)
        self._register(vision.names.tower, tower)
        self._register(vision.names.resampler, resampler)

    def __getattr__(self, name: str) -> Any:
        modules = self.__dict__.get("_modules", {})
        if name in ("model", "lm_head") and name not in modules and (names := self.__dict__.get("_names")):
            return getattr(modules.get(names.text), name)
        return super().__getattr__(name)

    @property
    def unused(self) -> frozenset[str]:
        """As of every decoder, under this one's names."""
        prefix = f"{self._names.text}." if self._names.text else ""
        return frozenset(prefix + name for name in super().unused)

    def see(self, pixels: Tensor) -> Tensor:
        """Token vectors [N, Q, D] of N normalised images [N, 3, S, S], in the weights' dtype."""
        tower, resampler = map(self.get_submodule, (self._names.tower, self._names.resampler))
        vectors: Tensor = resampler(tower(pixels.to(self.device, self.dtype)))
        return vectors

    def embed_seen(self, ids: Tensor, rows: Tensor, vectors: Tensor) -> Tensor:
        """What enters the first layer, [T, D]: ids [T] embedded, and vectors [R, D] unchanged at `rows` [R].

        A batch takes it as `embedded`. Vectors of images are not multiplied by the embedding scale.
        """
        embedded = self.embed(ids)
        return torch.index_copy(embedded, 0, rows, vectors.to(embedded.dtype))

    def _move_weights(self, prefix: str) -> None:
        """Registers what the decoder has made under `prefix` instead."""
        text = nn.Module()
        for name in list(self._modules):
            text.add_module(name, self._modules.pop(name))
        self.add_module(prefix, text)

    def _register(self, name: str, module: nn.Module) -> None:
        parent, _, last = name.rpartition(".")
        self.get_submodule(parent).add_module(last, module)
