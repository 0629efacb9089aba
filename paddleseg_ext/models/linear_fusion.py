"""LinearFusionSeg: the lightweight decoder of the Twins authors' high-precision-map application, over any backbone.

Described in the article on that application and in `spec/models.md` §2: project each stage to one width, resize to the
finest, concatenate, fuse, classify. There is no context module, because a backbone with global attention sees the
whole image already. No weights were published; arXiv 2105.15203 (SegFormer) has a head of the same kind.

Letters: N batch, C head channels, h×w size of the finest map.
"""
from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import nn

from paddleseg_ext.checkpoints.pretrained import load_pretrained
from paddleseg_ext.layers.convolution import ConvNormReLU, PixelClassifier
from paddleseg_ext.layers.sizes import resize, spatial_size
from paddleseg_ext.models.segmentor import BackboneSegmentor, check_whole
from paddleseg_ext.registry import register

__all__ = ['LinearFusionHead', 'LinearFusionSeg']


class LinearFusionHead(nn.Layer):
    """Projects every map to one width, resizes all to the finest, concatenates them finest first, fuses and classifies.

    Args:
        feat_channels: channels of the maps, finest first.
        num_classes: classes of the logits.
        channels: C, channels of every projection and of the fused map.
        dropout: probability in [0, 1) that a channel is zeroed in training before it is classified.
        bn_momentum: share of the running statistics that batch norm keeps a step, in [0, 1].

    Shapes: a list of maps [N, feat_channels[i], hi, wi] to [N, num_classes, h, w], the size of the first.
    """

    def __init__(self, feat_channels: Sequence[int], num_classes: int, *, channels: int = 256, dropout: float = 0.1,
                 bn_momentum: float = 0.9):
        super().__init__()
        weight, bias = nn.initializer.XavierUniform(), nn.initializer.Constant(0.)
        self.projections = nn.LayerList([nn.Conv2D(width, channels, 1, weight_attr=weight, bias_attr=bias)
                                         for width in feat_channels])
        self.fuse = ConvNormReLU(len(feat_channels) * channels, channels, kernel=1, bn_momentum=bn_momentum)
        self.classifier = PixelClassifier(channels, num_classes, dropout=dropout)

    def forward(self, maps: Sequence[paddle.Tensor]) -> paddle.Tensor:
        size = spatial_size(maps[0])
        projected = [resize(projection(x), size) for projection, x in zip(self.projections, maps)]
        return self.classifier(self.fuse(paddle.concat(projected, axis=1)))


@register('model')
class LinearFusionSeg(BackboneSegmentor):
    """Light decoder over a backbone: linear projections, fused and classified at the stride of the finest map.

    Args:
        num_classes: classes of the logits, at least 1.
        backbone: gives a list of maps, finest first, and tells their `feat_channels`.
        channels: the one width of the head, at least 1.
        dropout: probability in [0, 1) that a channel is zeroed in training before it is classified, in both heads.
        use_aux_head: train with an FCN head as auxiliary head.
        aux_channels: channels of the auxiliary head, at least 1.
        aux_index: index of the map that the auxiliary head reads, 0 for the finest.
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

    def __init__(self, num_classes: int, backbone: nn.Layer, *, channels: int = 256, dropout: float = 0.1,
                 use_aux_head: bool = False, aux_channels: int = 256, aux_index: int = 2,
                 feat_strides: Sequence[int] | None = None, bn_momentum: float = 0.9, pretrained: str | None = None,
                 pretrained_allow: Sequence[str] = ()):
        super().__init__(num_classes, backbone, feat_strides=feat_strides)
        check_whole(channels=channels, aux_channels=aux_channels)
        self.head = LinearFusionHead(self.feat_channels, num_classes, channels=channels, dropout=dropout,
                                     bn_momentum=bn_momentum)
        if use_aux_head:
            self.add_auxiliary_head(index=aux_index, channels=aux_channels, convolutions=1, dropout=dropout,
                                    bn_momentum=bn_momentum)
        if pretrained is not None:
            load_pretrained(self, pretrained, allow=pretrained_allow)

    @staticmethod
    def training_outputs(arguments: dict) -> int:
        """How many logits a model with these YAML arguments returns in training, so how many losses it needs."""
        return 2 if arguments.get('use_aux_head', False) else 1

    def decode(self, maps: Sequence[paddle.Tensor]) -> paddle.Tensor:
        return self.head(maps)
