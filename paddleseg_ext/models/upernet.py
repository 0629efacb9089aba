"""UPerNet over any backbone: pyramid pooling on the coarsest map, a feature pyramid, and their fusion.

Paper: "Unified Perceptual Parsing for Scene Understanding", arXiv 1807.10221, ECCV 2018. Numbers are those of
mmsegmentation 1.2.2's `UPerHead` with `FCNHead` as auxiliary head (Apache-2.0), with which the Twins and XCiT
segmentors were published. PaddleSeg's `UPerNet` is another network: other resizing, layers without use, no dropout.

Intended deviations, none of which changes a number in evaluation:
- adaptive average pooling exports with dynamic sizes (`layers/pooling.py`);
- batch norm behind the pool to one cell holds at batch 1 (`layers/normalisation.py`).

Letters: N batch, C head channels, h×w size of the finest map, H×W of the coarsest, n cells along a side.
"""
from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import nn

from paddleseg_ext.checkpoints.pretrained import load_pretrained
from paddleseg_ext.errors import UserError
from paddleseg_ext.layers.convolution import ConvNormReLU, PixelClassifier
from paddleseg_ext.layers.pooling import adaptive_average_pool2d
from paddleseg_ext.layers.sizes import add_top_down, resize, spatial_size
from paddleseg_ext.models.segmentor import BackboneSegmentor, check_whole
from paddleseg_ext.registry import register

__all__ = ['UPerHead', 'UPerNetMMSeg']


class UPerHead(nn.Layer):
    """Unified perceptual parsing head.

    Args:
        feat_channels: channels of the maps, finest first.
        num_classes: classes of the logits.
        channels: C, channels of every convolution.
        pool_sizes: n of every pool of the coarsest map.
        dropout: probability in [0, 1) that a channel is zeroed in training before it is classified.
        bn_momentum: share of the running statistics that batch norm keeps a step, in [0, 1].

    Shapes: a list of maps [N, feat_channels[i], hi, wi] to [N, num_classes, h, w], the size of the first.
    """

    def __init__(self, feat_channels: Sequence[int], num_classes: int, *, channels: int = 512,
                 pool_sizes: Sequence[int] = (1, 2, 3, 6), dropout: float = 0.1, bn_momentum: float = 0.9):
        super().__init__()

        def convolution(in_channels: int, kernel: int) -> ConvNormReLU:
            return ConvNormReLU(in_channels, channels, kernel=kernel, bn_momentum=bn_momentum)

        *finer, coarsest = feat_channels
        self.pool_sizes = tuple(pool_sizes)
        self.pools = nn.LayerList([convolution(coarsest, 1) for _ in pool_sizes])
        self.bottleneck = convolution(coarsest + len(self.pools) * channels, 3)
        self.laterals = nn.LayerList([convolution(width, 1) for width in finer])
        self.outputs = nn.LayerList([convolution(channels, 3) for _ in finer])
        self.fuse = convolution(len(feat_channels) * channels, 3)
        self.classifier = PixelClassifier(channels, num_classes, dropout=dropout)

    def forward(self, maps: Sequence[paddle.Tensor]) -> paddle.Tensor:
        *finer, coarsest = maps
        pyramid = [lateral(x) for lateral, x in zip(self.laterals, finer)] + [self._context(coarsest)]
        pyramid = add_top_down(pyramid, resize)
        smooth = [output(x) for output, x in zip(self.outputs, pyramid)] + pyramid[-1:]
        size = spatial_size(smooth[0])
        return self.classifier(self.fuse(paddle.concat([resize(x, size) for x in smooth], axis=1)))

    def _context(self, x: paddle.Tensor) -> paddle.Tensor:
        """The coarsest map beside its pools, mixed: [N, feat_channels[-1], H, W] to [N, C, H, W]."""
        size = spatial_size(x)
        pools = [resize(pool(adaptive_average_pool2d(x, cells)), size)
                 for pool, cells in zip(self.pools, self.pool_sizes)]
        return self.bottleneck(paddle.concat([x, *pools], axis=1))


@register('model')
class UPerNetMMSeg(BackboneSegmentor):
    """UPerNet over a backbone, with an FCN head as auxiliary head.

    Args:
        num_classes: classes of the logits, at least 1.
        backbone: gives a list of maps, finest first, and tells their `feat_channels`.
        channels: channels of the head, at least 1.
        pool_sizes: cells along a side of every pool of the coarsest map, each at least 1.
        dropout: probability in [0, 1) that a channel is zeroed in training before it is classified, in both heads.
        use_aux_head: train with the auxiliary head.
        aux_channels: channels of the auxiliary head, at least 1.
        aux_index: index of the map that the auxiliary head reads, 0 for the finest.
        aux_convolutions: 3×3 convolutions of the auxiliary head, at least 1.
        feat_strides: strides of the backbone's maps; None takes the backbone's own `feat_strides`.
        bn_momentum: share of the running statistics that batch norm keeps a step, in [0, 1].
        pretrained: path or address of weights of the whole segmentor.
        pretrained_allow: name patterns of weights that may be missing in `pretrained`, or there in another shape.

    Shapes: [N, in_channels, H, W], H and W at least `minimum_size`, to a list of logits [N, num_classes, H, W]:
    `[main]` in evaluation, `[main, auxiliary]` in training with `use_aux_head`.

    Raises:
        UserError: an argument is out of its range, or `pretrained` does not fit.
        ValueError: an image is smaller than `minimum_size` pixels.
    """

    def __init__(self, num_classes: int, backbone: nn.Layer, *, channels: int = 512,
                 pool_sizes: Sequence[int] = (1, 2, 3, 6), dropout: float = 0.1, use_aux_head: bool = True,
                 aux_channels: int = 256, aux_index: int = 2, aux_convolutions: int = 1,
                 feat_strides: Sequence[int] | None = None, bn_momentum: float = 0.9, pretrained: str | None = None,
                 pretrained_allow: Sequence[str] = ()):
        super().__init__(num_classes, backbone, feat_strides=feat_strides)
        check_whole(channels=channels, aux_channels=aux_channels, aux_convolutions=aux_convolutions)
        if any(not isinstance(size, int) or size < 1 for size in pool_sizes):
            raise UserError(f'pool_sizes must be whole numbers of at least 1, but is {list(pool_sizes)}.')
        self.head = UPerHead(self.feat_channels, num_classes, channels=channels, pool_sizes=pool_sizes,
                             dropout=dropout, bn_momentum=bn_momentum)
        if use_aux_head:
            self.add_auxiliary_head(index=aux_index, channels=aux_channels, convolutions=aux_convolutions,
                                    dropout=dropout, bn_momentum=bn_momentum)
        if pretrained is not None:
            load_pretrained(self, pretrained, allow=pretrained_allow)

    @staticmethod
    def training_outputs(arguments: dict) -> int:
        """How many logits a model with these YAML arguments returns in training, so how many losses it needs."""
        return 2 if arguments.get('use_aux_head', True) else 1

    def decode(self, maps: Sequence[paddle.Tensor]) -> paddle.Tensor:
        return self.head(maps)
