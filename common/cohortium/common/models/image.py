"""Models of images: plain convolutions, and a residual network.

Both have `features`, the convolutions, whose last gives the maps that Grad-CAM weighs, and `head`.
"""

from torch import Tensor, nn

from cohortium.common.layout import Block, Layout
from cohortium.common.models.activations import ACTIVATIONS
from cohortium.common.models.blocks import there, values
from cohortium.common.models.mlp import perceptron
from cohortium.common.models.options_base import Activation
from cohortium.common.models.options_image import Cnn2dModel, ResnetModel

GROUPS = 4  # of a plain network's group norm


class ImageModel(nn.Module):
    """Logits (B, outputs) from features (B, inputs); of a missing image all maps are 0."""

    def __init__(self, block: Block, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self._block = block
        self.features, self.head = features, head

    def forward(self, features: Tensor) -> Tensor:
        maps = self.features(values(features, self._block))
        found: Tensor = self.head(maps * there(features, self._block)[:, None, None, None])
        return found


def image_block(layout: Layout) -> Block:
    """The one block that such a model reads."""
    (block,) = (block for block in layout.blocks if block.kind == "image")
    return block


def cnn2d(options: Cnn2dModel, layout: Layout, outputs: int) -> nn.Module:
    """Convolution, perhaps group norm, activation and pooling by 2, and so on; then an MLP."""
    block = image_block(layout)
    width, height, breadth = block.shape
    layers: list[nn.Module] = []
    for channels in options.channels:
        layers.append(nn.Conv2d(width, channels, options.kernel, padding="same"))
        if options.norm == "group":
            layers.append(nn.GroupNorm(GROUPS, channels))
        layers += [ACTIVATIONS[options.activation](), nn.MaxPool2d(2)]
        width, height, breadth = channels, height // 2, breadth // 2
    flat = perceptron(
        width * height * breadth, options.hidden, outputs, options.activation, options.dropout
    )
    return ImageModel(block, nn.Sequential(*layers), nn.Sequential(nn.Flatten(), flat))


class Residual(nn.Module):
    """Two convolutions beside a short cut (He et al. 2016), with group norm (Wu & He 2018)."""

    def __init__(
        self, inputs: int, width: int, stride: int, groups: int, activation: Activation
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm, self.norm_after = nn.GroupNorm(groups, width), nn.GroupNorm(groups, width)
        same = inputs == width and stride == 1
        self.short = nn.Identity() if same else nn.Conv2d(inputs, width, 1, stride, bias=False)
        self.activation, self.last = ACTIVATIONS[activation](), ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        around = self.norm_after(self.second(self.activation(self.norm(self.first(x)))))
        found: Tensor = self.last(around + self.short(x))
        return found


def resnet(options: ResnetModel, layout: Layout, outputs: int) -> nn.Module:
    """A first convolution, residual blocks at half the size for each width, the mean, a layer."""
    block = image_block(layout)
    width = options.channels[0]
    layers: list[nn.Module] = [
        nn.Conv2d(block.shape[0], width, 3, padding=1, bias=False),
        nn.GroupNorm(options.groups, width),
        ACTIVATIONS[options.activation](),
    ]
    for number, channels in enumerate(options.channels):
        for again in range(options.blocks_each):
            stride = 2 if number and not again else 1
            layers.append(Residual(width, channels, stride, options.groups, options.activation))
            width = channels
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(options.dropout),
        nn.Linear(width, outputs),
    )
    return ImageModel(block, nn.Sequential(*layers), head)
