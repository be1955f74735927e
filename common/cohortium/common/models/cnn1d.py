"""Convolutions along a sequence."""

from torch import Tensor, nn
from torch.nn import functional

from cohortium.common.layout import Layout
from cohortium.common.models.activations import ACTIVATIONS
from cohortium.common.models.options_sequence import Cnn1dModel
from cohortium.common.models.sequence import (
    Letters,
    Per,
    SequenceNetwork,
    along_head,
    patient_head,
    sequence_block,
)


class ConvolutionTrunk(nn.Module):
    """Convolution, perhaps layer norm, activation, dropout, max pooling; and so on."""

    def __init__(self, options: Cnn1dModel, width: int, pool: int) -> None:
        super().__init__()
        self._pool = pool
        self.features = nn.ModuleList()
        self.norms = nn.ModuleList()
        for channels in options.channels:
            self.features.append(nn.Conv1d(width, channels, options.kernel, padding="same"))
            self.norms.append(nn.LayerNorm(channels) if options.norm == "layer" else nn.Identity())
            width = channels
        self.activation = ACTIVATIONS[options.activation]()
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, along: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        x = along.transpose(1, 2)
        for convolution, norm in zip(self.features, self.norms, strict=True):
            x = norm(convolution(x).transpose(1, 2)).transpose(1, 2)
            x = self.dropout(self.activation(x)) * there[:, None]
            if self._pool > 1:
                x = functional.max_pool1d(x, self._pool)
                there = functional.max_pool1d(there[:, None], self._pool)[:, 0]
        return x.transpose(1, 2), there


def cnn1d(options: Cnn1dModel, layout: Layout, outputs: int, per: Per = "patient") -> nn.Module:
    """Logits (B, outputs) from features (B, inputs); nothing is pooled where places are asked."""
    block = sequence_block(layout)
    (places,) = block.shape
    letters, width = Letters(block, options.embedding), options.channels[-1]
    trunk = ConvolutionTrunk(options, letters.width, options.pool if per == "patient" else 1)
    head = along_head(per, width, places, outputs)
    for _ in options.channels:
        places //= options.pool
    head = head or patient_head(
        options.readout, places, width, options.hidden, outputs, options.activation
    )
    return SequenceNetwork(letters, trunk, head)
