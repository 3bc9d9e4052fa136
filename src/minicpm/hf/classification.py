"""The decoder with a label head on the last token of each row."""

from torch import nn
from transformers.modeling_layers import GenericForSequenceClassification

from minicpm.hf.backbone import MiniCPMDecoderModel, MiniCPMPreTrainedModel, MiniCPMSALADecoderModel
from minicpm.hf.config import MiniCPMConfig, MiniCPMSALAConfig


class MiniCPMDecoderForSequenceClassification(GenericForSequenceClassification, MiniCPMPreTrainedModel):
    """Labels for whole texts by a causal decoder, to be trained.

    Not the published class of a similar name, in which tokens see the whole text: that is MiniCPM-Reranker.
    """

    backbone_class = MiniCPMDecoderModel

    def __init__(self, config: MiniCPMConfig) -> None:
        MiniCPMPreTrainedModel.__init__(self, config)
        assert config.num_labels, "transformers gives every config labels"
        self.num_labels = config.num_labels
        self.model = self.backbone_class(config)
        self.score = nn.Linear(self.model.shape.hidden, self.num_labels, bias=False)
        self.post_init()


class MiniCPMSALADecoderForSequenceClassification(MiniCPMDecoderForSequenceClassification):
    """The same for MiniCPM-SALA."""

    config_class = MiniCPMSALAConfig
    backbone_class = MiniCPMSALADecoderModel
