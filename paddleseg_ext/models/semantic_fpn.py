"""Semantic FPN: a feature pyramid and the light head of Panoptic FPN, over any backbone.

Papers: "Feature Pyramid Networks for Object Detection", arXiv 1612.03144; "Panoptic Feature Pyramid Networks", arXiv
1901.02446. Numbers are those of mmsegmentation 1.2.2's `FPN` neck and `FPNHead` (Apache-2.0), with which the Twins and
XCiT segmentors were published.

Intended deviation, which changes no number: the top-down path picks rows and columns by index instead of resizing by
nearest neighbour. oneDNN computes such a resize between odd sizes wrongly; picked, every runtime agrees.

Letters: N batch, C pyramid channels, K head channels, h×w size of the finest map.
"""
from __future__ import annotations

from collections.abc import Sequence
from math import log2

import paddle
from paddle import nn

from paddleseg_ext.checkpoints.pretrained import load_pretrained
from paddleseg_ext.errors import UserError
from paddleseg_ext.layers.convolution import ConvNormReLU, PixelClassifier
from paddleseg_ext.layers.sizes import add_top_down, resize, spatial_size
from paddleseg_ext.models.segmentor import BackboneSegmentor, check_whole
from paddleseg_ext.registry import register

__all__ = ['FeaturePyramid', 'FeaturePyramidHead', 'SemanticFPN']


class FeaturePyramid(nn.Layer):
    """Projects each map to one width, adds the coarser ones to the finer ones, and smooths each by a 3×3 convolution.

    Args:
        feat_channels: channels of the maps, finest first.
        channels: C, channels of every map of the pyramid.

    Shapes: a list of maps [N, feat_channels[i], hi, wi] to the list of [N, C, hi, wi].
    """

    def __init__(self, feat_channels: Sequence[int], channels: int):
        super().__init__()
        self.laterals = nn.LayerList([_plain_convolution(width, channels, 1) for width in feat_channels])
        self.outputs = nn.LayerList([_plain_convolution(channels, channels, 3) for _ in feat_channels])

    def forward(self, maps: Sequence[paddle.Tensor]) -> list[paddle.Tensor]:
        pyramid = [lateral(x) for lateral, x in zip(self.laterals, maps)]
        return [output(x) for output, x in zip(self.outputs, add_top_down(pyramid, _nearest))]


class FeaturePyramidHead(nn.Layer):
    """Brings every map of a pyramid to the finest one by convolutions and doublings, sums them and classifies.

    Args:
        in_channels: C, channels of every map.
        num_classes: classes of the logits.
        feat_strides: of the maps, finest first; each a power of 2 times the first.
        channels: K, channels of every convolution.
        dropout: probability in [0, 1) that a channel is zeroed in training before it is classified.
        bn_momentum: share of the running statistics that batch norm keeps a step, in [0, 1].

    Shapes: a list of maps [N, C, hi, wi] to [N, num_classes, h, w], the size of the first.
    """

    def __init__(self, in_channels: int, num_classes: int, feat_strides: Sequence[int], *, channels: int = 128,
                 dropout: float = 0.1, bn_momentum: float = 0.9):
        super().__init__()
        self.scales = nn.LayerList()
        self.doublings = [_doublings(stride, feat_strides) for stride in feat_strides]
        for doublings in self.doublings:
            inputs = [in_channels] + [channels] * (doublings - 1)
            self.scales.append(nn.LayerList([ConvNormReLU(width, channels, kernel=3, bn_momentum=bn_momentum)
                                             for width in inputs]))
        self.classifier = PixelClassifier(channels, num_classes, dropout=dropout)

    def forward(self, maps: Sequence[paddle.Tensor]) -> paddle.Tensor:
        total = None
        for x, convolutions, doublings in zip(maps, self.scales, self.doublings):
            for convolution in convolutions:
                x = convolution(x)
                x = _double(x) if doublings else x
            # NOTE: doubled maps are larger than the finest by up to a cell a doubling where sizes are odd.
            total = x if total is None else total + resize(x, spatial_size(total))
        return self.classifier(total)


@register('model')
class SemanticFPN(BackboneSegmentor):
    """Feature pyramid and Panoptic-FPN head over a backbone.

    Args:
        num_classes: classes of the logits, at least 1.
        backbone: gives a list of maps, finest first, and tells their `feat_channels`.
        fpn_channels: channels of the pyramid, at least 1.
        head_channels: channels of the head, at least 1.
        dropout: probability in [0, 1) that a channel is zeroed in training before it is classified.
        feat_strides: strides of the backbone's maps, each a power of 2 times the first; None takes the backbone's own
            `feat_strides`.
        bn_momentum: share of the running statistics that batch norm keeps a step, in [0, 1].
        pretrained: path or address of weights of the whole segmentor.
        pretrained_allow: name patterns of weights that may be missing in `pretrained`, or there in another shape.

    Shapes: [N, in_channels, H, W], H and W at least `minimum_size`, to the list of one map of logits
    [N, num_classes, H, W].

    Raises:
        UserError: an argument is out of its range, or `pretrained` does not fit.
        ValueError: an image is smaller than `minimum_size` pixels.
    """

    def __init__(self, num_classes: int, backbone: nn.Layer, *, fpn_channels: int = 256, head_channels: int = 128,
                 dropout: float = 0.1, feat_strides: Sequence[int] | None = None, bn_momentum: float = 0.9,
                 pretrained: str | None = None, pretrained_allow: Sequence[str] = ()):
        super().__init__(num_classes, backbone, feat_strides=feat_strides)
        check_whole(fpn_channels=fpn_channels, head_channels=head_channels)
        self.neck = FeaturePyramid(self.feat_channels, fpn_channels)
        self.head = FeaturePyramidHead(fpn_channels, num_classes, self.feat_strides, channels=head_channels,
                                       dropout=dropout, bn_momentum=bn_momentum)
        if pretrained is not None:
            load_pretrained(self, pretrained, allow=pretrained_allow)

    @staticmethod
    def training_outputs(arguments: dict) -> int:
        """How many logits a model with these YAML arguments returns in training, so how many losses it needs."""
        return 1

    def decode(self, maps: Sequence[paddle.Tensor]) -> paddle.Tensor:
        return self.head(self.neck(maps))


def _plain_convolution(in_channels: int, out_channels: int, kernel: int) -> nn.Conv2D:
    """Convolution with bias that keeps the size; weights start Glorot-uniform, the bias at 0."""
    return nn.Conv2D(in_channels, out_channels, kernel, padding=kernel // 2,
                     weight_attr=nn.initializer.XavierUniform(), bias_attr=nn.initializer.Constant(0.))


def _doublings(stride: int, feat_strides: Sequence[int]) -> int:
    """How often the map of a stride doubles until it is as fine as the first."""
    ratio = stride / feat_strides[0]
    if ratio not in [2**power for power in range(16)]:
        raise UserError(f'SemanticFPN doubles maps until they are as fine as the first, so every stride must be a '
                        f'power of 2 times {feat_strides[0]}, but feat_strides is {list(feat_strides)}; choose another '
                        'backbone, or UPerNetMMSeg, which takes any strides.')
    return int(log2(ratio))


def _nearest(x: paddle.Tensor, size) -> paddle.Tensor:
    """`x` [N, C, h, w] at `size` (H, W): position i of a side of length L shows position ⌊i·l/L⌋."""
    rows, columns = ((paddle.arange(length, dtype='int64') * old) // length
                     for old, length in zip(spatial_size(x), size))
    return paddle.gather(paddle.gather(x, rows, axis=2), columns, axis=3)


def _double(x: paddle.Tensor) -> paddle.Tensor:
    """[N, C, h, w] to [N, C, 2h, 2w], bilinearly."""
    height, width = spatial_size(x)
    return resize(x, [2 * height, 2 * width])
