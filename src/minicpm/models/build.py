"""Makes the module that a config describes."""

from minicpm.config import Embedding, ModelConfig, NextToken, Relevance
from minicpm.models.decoder import Decoder
from minicpm.models.pooled import EmbeddingModel, RerankingModel
from minicpm.models.trunk import Trunk
from minicpm.models.vision_decoder import VisionDecoder


def build(config: ModelConfig) -> Trunk:
    """The module for this config, initialised by torch; build it on the meta device to fill it later."""
    match config.head:
        case NextToken():
            return VisionDecoder(config) if config.vision else Decoder(config)
        case Embedding():
            return EmbeddingModel(config)
        case Relevance():
            return RerankingModel(config)
