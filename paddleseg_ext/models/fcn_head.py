"""FCN head (arXiv 1411.4038), the auxiliary head of segmentors over a backbone, equal to mmsegmentation's `FCNHead`.

Of that class it is the form without the input concatenated, which the released segmentors use.
"""
from __future__ import annotations

import paddle
from paddle import nn

from paddleseg_ext.layers.convolution import ConvNormReLU, PixelClassifier

__all__ = ['FCNHead']


class FCNHead(nn.Layer):
    """3×3 convolutions with batch norm and ReLU, then dropout and the classifier.

    Args:
        in_channels: channels of the map.
        num_classes: classes of the logits.
        channels: of every convolution.
        convolutions: how many, at least 1.
        dropout: probability in [0, 1) that a channel is zeroed in training before it is classified.
        bn_momentum: share of the running statistics that batch norm keeps a step, in [0, 1].

    Shapes: [N, in_channels, H, W] to [N, num_classes, H, W].
    """

    def __init__(self, in_channels: int, num_classes: int, *, channels: int = 256, convolutions: int = 1,
                 dropout: float = 0.1, bn_momentum: float = 0.9):
        super().__init__()
        if convolutions < 1:
            raise ValueError(f'an FCN head needs at least one convolution, but convolutions is {convolutions}.')
        inputs = [in_channels] + [channels] * (convolutions - 1)
        self.convs = nn.Sequential(*(ConvNormReLU(width, channels, kernel=3, bn_momentum=bn_momentum)
                                     for width in inputs))
        self.classifier = PixelClassifier(channels, num_classes, dropout=dropout)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.classifier(self.convs(x))
