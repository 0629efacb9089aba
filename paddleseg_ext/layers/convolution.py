"""Convolution with batch norm, alone and with ReLU, and the layer that gives the logits of a segmentation head."""
from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.layers.normalisation import BatchNorm2D

__all__ = ['ConvNorm', 'ConvNormReLU', 'PixelClassifier']


class ConvNorm(nn.Layer):
    """Convolution without bias and batch norm.

    Weights start normal with variance 2 / (outputs of a position over the kernel), after He et al., arXiv 1502.01852.

    Args:
        in_channels, out_channels: channels before and after.
        kernel: odd side of the kernel in pixels.
        stride: of the convolution; 1 keeps the size.
        bn_momentum: share of the running statistics that batch norm keeps a step, in [0, 1].

    Shapes: [N, in_channels, H, W] to [N, out_channels, ⌈H/stride⌉, ⌈W/stride⌉].
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, stride: int = 1, bn_momentum: float = 0.9):
        super().__init__()
        # NOTE: `fan_in` is given the outgoing count, because that is what mmsegmentation's heads and torchvision's
        # ResNets start with.
        weight = nn.initializer.KaimingNormal(fan_in=out_channels * kernel**2)
        self.conv = nn.Conv2D(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2,
                              weight_attr=weight, bias_attr=False)
        self.bn = BatchNorm2D(out_channels, momentum=bn_momentum)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.bn(self.conv(x))


class ConvNormReLU(ConvNorm):
    """`ConvNorm` and ReLU: the same arguments and shapes."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        # NOTE: the class is named because the tracer of Paddle 2.6 does not understand super() here.
        return F.relu(ConvNorm.forward(self, x))


class PixelClassifier(nn.Conv2D):
    """1×1 convolution to the logits, behind dropout of whole channels.

    Weights start normal with deviation 0.01, the bias at 0.

    Args:
        channels: of the map that is classified.
        num_classes: channels of the logits.
        dropout: probability in [0, 1) that a channel of a sample is zeroed in training.

    Shapes: [N, channels, H, W] to [N, num_classes, H, W].

    Raises:
        ValueError: `dropout` is outside [0, 1).
    """

    def __init__(self, channels: int, num_classes: int, *, dropout: float):
        if not 0. <= dropout < 1.:
            raise ValueError(f'dropout must lie in [0, 1), but is {dropout}.')
        super().__init__(channels, num_classes, 1, weight_attr=nn.initializer.Normal(std=0.01),
                         bias_attr=nn.initializer.Constant(0.))
        self.dropout = dropout

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        # NOTE: the class is named because the tracer of Paddle 2.6 does not understand super() here.
        return nn.Conv2D.forward(self, F.dropout2d(x, self.dropout, training=self.training))
