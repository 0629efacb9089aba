"""ResNet: the convolutional stages under VT-ResNet and VT-FPN, and what these are measured against.

Paper: "Deep Residual Learning for Image Recognition", arXiv 1512.03385. A bottleneck strides in its 3×3 convolution, as
in torchvision, timm and PaddleClas, not in the first 1×1 as in the paper ("version 1.5").
Released weights: torchvision (BSD-3-Clause), timm and PaddleClas (Apache-2.0); `pretrained` takes all of them.

Intended deviations, none of which changes a number: `in_channels` reaches the first convolution, and batch norm works
on a CPU and on a single value.

Letters: N batch, C channels, H×W size of the image.
"""
from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.backbones.classification import register_classifier
from paddleseg_ext.checkpoints.pretrained import load_pretrained
from paddleseg_ext.layers.convolution import ConvNorm
from paddleseg_ext.layers.drop_path import DropPath
from paddleseg_ext.layers.sizes import require_channels, require_size
from paddleseg_ext.registry import register

__all__ = ['STRIDES', 'VARIANTS', 'ResNet', 'ResNetClassifier', 'Stem', 'Variant', 'make_stages', 'stage_maps',
           'variant_of']


@dataclass(frozen=True)
class Variant:
    """Sizes of a ResNet.

    Attributes:
        expansion: channels of a block's output over those of its 3×3 convolutions: 1 for basic blocks, 4 for
            bottlenecks.
        depths: blocks of each stage.
        widths: of the 3×3 convolutions of each stage; the stem has the first of them.
    """

    expansion: int
    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each stage's map."""
        return tuple(self.expansion * width for width in self.widths)


STRIDES = (4, 8, 16, 32)

# Table 1 of the paper
#               expansion  depths
VARIANTS = {
    'ResNet18':  Variant(1, (2, 2, 2, 2)),
    'ResNet34':  Variant(1, (3, 4, 6, 3)),
    'ResNet50':  Variant(4, (3, 4, 6, 3)),
    'ResNet101': Variant(4, (3, 4, 23, 3)),
}


class Stem(nn.Layer):
    """A 7×7 convolution and a max pool, each of stride 2. [N, in_channels, H, W] to [N, channels, ⌈H/4⌉, ⌈W/4⌉]."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.conv1 = ConvNorm(in_channels, channels, kernel=7, stride=2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.max_pool2d(F.relu(self.conv1(x)), 3, stride=2, padding=1)


class Block(nn.Layer):
    """A basic block (two 3×3 convolutions) or a bottleneck (1×1, 3×3, 1×1), beside a shortcut.

    Args:
        in_channels: before.
        width: of the 3×3 convolutions.
        expansion: 1 for a basic block, 4 for a bottleneck; the output has expansion · width channels.
        stride: of the first 3×3 convolution, and of a projected shortcut.
        projected: whether the shortcut is a 1×1 convolution where none is needed, too.
        drop_path_rate: of the branch, in [0, 1).

    Shapes: [N, in_channels, H, W] to [N, expansion · width, ⌈H/stride⌉, ⌈W/stride⌉].
    """

    def __init__(self, in_channels: int, width: int, expansion: int, *, stride: int, projected: bool,
                 drop_path_rate: float):
        super().__init__()
        channels = expansion * width
        if expansion == 1:
            convolutions = [ConvNorm(in_channels, width, kernel=3, stride=stride), ConvNorm(width, width, kernel=3)]
        else:
            convolutions = [ConvNorm(in_channels, width, kernel=1), ConvNorm(width, width, kernel=3, stride=stride),
                            ConvNorm(width, channels, kernel=1)]
        self.convs = nn.LayerList(convolutions)
        fits = stride == 1 and in_channels == channels and not projected
        self.shortcut = None if fits else ConvNorm(in_channels, channels, kernel=1, stride=stride)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        for index, convolution in enumerate(self.convs):
            x = convolution(x if index == 0 else F.relu(x))
        return F.relu(shortcut + self.drop_path(x))


def make_stages(variant: Variant, count: int, *, first_projection: bool, drop_path_rate: float) -> nn.LayerList:
    """The first `count` stages; all but the first halve the map."""
    stages, channels = nn.LayerList(), variant.widths[0]
    for index in range(count):
        blocks = nn.Sequential()
        for block in range(variant.depths[index]):
            stride = 2 if index > 0 and block == 0 else 1
            projected = first_projection and index == block == 0
            blocks.add_sublayer(str(block), Block(channels, variant.widths[index], variant.expansion, stride=stride,
                                                  projected=projected, drop_path_rate=drop_path_rate))
            channels = variant.channels[index]
        stages.append(blocks)
    return stages


def stage_maps(stem: nn.Layer, stages: nn.LayerList, x: paddle.Tensor) -> list[paddle.Tensor]:
    """The map behind every stage, of images [N, in_channels, H, W]."""
    x = stem(x)
    maps = []
    for stage in stages:
        x = stage(x)
        maps.append(x)
    return maps


def variant_of(shapes: Mapping[str, Sequence[int]], stages: int) -> str | None:
    """The variant whose first `stages` stages have weights of these names and shapes, None where no variant has."""
    depths = tuple(sum(f'stages.{stage}.{block}.convs.0.conv.weight' in shapes for block in range(len(shapes)))
                   for stage in range(stages))
    last = 2 if 'stages.0.0.convs.2.conv.weight' in shapes else 1
    inner, outer = (tuple(shapes.get(f'stages.{stage}.0.convs.{convolution}.conv.weight', (0,))[0]
                          for stage in range(stages)) for convolution in (0, last))
    return next((name for name, each in VARIANTS.items()
                 if (each.depths[:stages], each.widths[:stages], each.channels[:stages]) == (depths, inner, outer)),
                None)


class ResNet(nn.Layer):
    """The backbone behind all variants; YAML names `ResNet18` and so on.

    Args:
        variant: its sizes.

    The others as of `ResNet18` and its siblings, below.

    Shapes: [N, in_channels, H, W], H and W at least 32, to four maps of strides 4, 8, 16 and 32, rounded up.

    Raises:
        ValueError: an argument is out of its range, or an image is smaller than `minimum_size` pixels.
    """

    minimum_size = 32
    first_convolution = 'stem.conv1.conv.weight'

    def __init__(self, variant: Variant, *, in_channels: int = 3, first_projection: bool = False,
                 drop_path_rate: float = 0., pretrained: str | None = None, pretrained_allow: Sequence[str] = ()):
        super().__init__()
        require_channels(in_channels)
        self.feat_channels = list(variant.channels)
        self.feat_strides = list(STRIDES)
        self.stem = Stem(in_channels, variant.widths[0])
        self.stages = make_stages(variant, len(STRIDES), first_projection=first_projection,
                                  drop_path_rate=drop_path_rate)
        if pretrained is not None:
            load_pretrained(self, pretrained, allow=pretrained_allow)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        require_size(x, self.minimum_size, 'ResNet')
        return stage_maps(self.stem, self.stages, x)

    @staticmethod
    def identify(shapes: Mapping[str, Sequence[int]]) -> str | None:
        """The variant whose backbone has weights of these names and shapes, None where no variant has."""
        return variant_of(shapes, len(STRIDES))


class ResNetClassifier(nn.Layer):
    """ResNet with the classifier of the released ImageNet weights: the mean of the last map and a linear map.

    Args:
        num_classes: of the logits, at least 1.

    The others as of the backbone; `pretrained` is the whole classifier.

    Shapes: [N, in_channels, H, W], H and W at least 32, to logits [N, num_classes].
    """

    def __init__(self, variant: Variant, *, num_classes: int, pretrained: str | None = None,
                 pretrained_allow: Sequence[str] = (), **backbone):
        super().__init__()
        self.backbone = ResNet(variant, **backbone)
        self.head = nn.Linear(variant.channels[-1], num_classes)
        if pretrained is not None:
            load_pretrained(self, pretrained, allow=pretrained_allow)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.backbone(x)[-1].mean(axis=[2, 3]))


def _register(name: str, variant: Variant) -> None:
    def backbone(in_channels: int = 3, first_projection: bool = False, drop_path_rate: float = 0.,
                 pretrained: str | None = None, pretrained_allow: Sequence[str] = ()) -> ResNet:
        return ResNet(variant, in_channels=in_channels, first_projection=first_projection,
                      drop_path_rate=drop_path_rate, pretrained=pretrained, pretrained_allow=pretrained_allow)

    channels = ', '.join(map(str, variant.channels))
    backbone.__name__ = backbone.__qualname__ = name
    backbone.__doc__ = f"""ResNet-{name[6:]}: four maps of strides 4, 8, 16, 32 and {channels} channels.

    Args:
        in_channels: channels of the images, at least 1; the first convolution of pretrained weights is adapted.
        first_projection: the shortcut of the very first block is a convolution in ResNet-18 and 34 as well, as in
            PaddleClas's weights.
        drop_path_rate: drop path of every block, in [0, 1).
        pretrained: path, address or `timm/` name of weights in any of the released formats, or of our own.
        pretrained_allow: patterns of weights that may be missing or left over.
    """
    register('backbone')(backbone)
    register_classifier(name, functools.partial(ResNetClassifier, variant))


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)
