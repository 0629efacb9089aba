"""VT-FPN: a feature pyramid whose levels speak through tokens instead of convolutions, over any backbone.

Paper: "Visual Transformers: Token-based Image Representation and Processing for Computer Vision", arXiv 2006.03677.
Its authors published neither code nor weights, so this is built from the description: tokens from the maps of every
resolution, one transformer over all of them, projected back to the maps, in place of a Panoptic FPN's convolutions.

What the paper leaves open, and what is chosen here; the parts of a module say their own choices (`tokenizers`,
`token_relations` and `projector` in `paddleseg_ext.layers`):
- a 1×1 convolution with batch norm and ReLU brings every map to the width of the pyramid, as in an FPN; there is no
  top-down path, because the tokens carry what coarser levels know to the finer ones;
- 8 tokens of 1024 channels a level, each level with its own filter-based tokenizer and its own projector, and a layer
  norm behind the transformer (`TokenNorm`, an addition to the equations);
- the head is that of Panoptic FPN without its convolutions: batch norm and ReLU for every level, resized to the
  finest, summed, classified by a 1×1 convolution.

Letters: N batch, C channels of the pyramid, L tokens of a level, T token channels, h×w size of the finest map.
"""
from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.checkpoints.pretrained import load_pretrained
from paddleseg_ext.layers.convolution import ConvNormReLU, PixelClassifier
from paddleseg_ext.layers.normalisation import BatchNorm2D
from paddleseg_ext.layers.projector import Projector
from paddleseg_ext.layers.sizes import resize, spatial_size
from paddleseg_ext.layers.token_relations import RELATIONS, TokenNorm
from paddleseg_ext.layers.tokenizers import FilterTokenizer
from paddleseg_ext.layers.visual_transformer import check_token_arguments
from paddleseg_ext.models.segmentor import BackboneSegmentor, check_whole
from paddleseg_ext.registry import register

__all__ = ['TokenPyramid', 'TokenPyramidHead', 'VTFPN']


class TokenPyramid(nn.Layer):
    """Projects each map to one width, and lets all of them take from the tokens of all of them.

    Args:
        feat_channels: channels of the maps, finest first.
        channels: C.
        tokens: L.
        token_channels: T.
        groups: of the group convolutions; divides C and half of T.
        relation: what is done between the tokens, one of RELATIONS.
        position_encoding: whether tokens say where they come from.
        bn_momentum: share of the running statistics that batch norm keeps a step, in [0, 1].

    Shapes: a list of n maps [N, feat_channels[i], hi, wi] to the list of [N, C, hi, wi]; n·L tokens between.
    """

    def __init__(self, feat_channels: Sequence[int], channels: int, *, tokens: int, token_channels: int, groups: int,
                 relation: str, position_encoding: bool, bn_momentum: float):
        super().__init__()
        self.laterals = nn.LayerList([ConvNormReLU(width, channels, kernel=1, bn_momentum=bn_momentum)
                                      for width in feat_channels])
        self.tokenizers = nn.LayerList([FilterTokenizer(channels, tokens, token_channels, groups=groups,
                                                        position_encoding=position_encoding) for _ in feat_channels])
        self.relation = RELATIONS[relation](token_channels, groups=groups)
        self.norm = TokenNorm(token_channels)
        self.projectors = nn.LayerList([Projector(channels, token_channels, groups=groups) for _ in feat_channels])

    def forward(self, maps: Sequence[paddle.Tensor]) -> list[paddle.Tensor]:
        maps = [lateral(x) for lateral, x in zip(self.laterals, maps)]
        tokens = paddle.concat([tokenizer(x) for tokenizer, x in zip(self.tokenizers, maps)], axis=2)  # [N, T, n·L]
        tokens = self.norm(self.relation(tokens))
        return [projector(x, tokens) for projector, x in zip(self.projectors, maps)]


class TokenPyramidHead(nn.Layer):
    """Batch norm and ReLU for every map, all resized to the finest, summed and classified.

    Args:
        levels: how many maps.
        channels: C.
        num_classes: classes of the logits.
        dropout: probability in [0, 1) that a channel is zeroed in training before it is classified.
        bn_momentum: share of the running statistics that batch norm keeps a step, in [0, 1].

    Shapes: a list of maps [N, C, hi, wi] to [N, num_classes, h, w], the size of the first.
    """

    def __init__(self, levels: int, channels: int, num_classes: int, *, dropout: float, bn_momentum: float):
        super().__init__()
        self.bns = nn.LayerList([BatchNorm2D(channels, momentum=bn_momentum) for _ in range(levels)])
        self.classifier = PixelClassifier(channels, num_classes, dropout=dropout)

    def forward(self, maps: Sequence[paddle.Tensor]) -> paddle.Tensor:
        size = spatial_size(maps[0])
        total = None
        for bn, x in zip(self.bns, maps):
            x = F.relu(bn(x))
            total = x if total is None else total + resize(x, size)
        return self.classifier(total)


@register('model')
class VTFPN(BackboneSegmentor):
    """Token pyramid and a light head over a backbone.

    Args:
        num_classes: classes of the logits, at least 1.
        backbone: gives a list of maps, finest first, and tells their `feat_channels`.
        fpn_channels: channels of the pyramid, a multiple of `groups`.
        tokens: of each level, at least 2.
        token_channels: of each token.
        groups: of the group convolutions; divides fpn_channels and half of token_channels.
        relation: what is done between the tokens: transformer, convolution or none.
        position_encoding: tokens say where in the image they come from.
        dropout: probability in [0, 1) that a channel is zeroed in training before it is classified.
        feat_strides: strides of the backbone's maps; None takes the backbone's own `feat_strides`.
        bn_momentum: share of the running statistics that batch norm keeps a step, in [0, 1].
        pretrained: path or address of weights of the whole segmentor.
        pretrained_allow: name patterns of weights that may be missing in `pretrained`, or there in another shape.

    Shapes: [N, in_channels, H, W], H and W at least `minimum_size`, to the list of one map of logits
    [N, num_classes, H, W].

    Raises:
        UserError: an argument is out of its range, or `pretrained` does not fit.
        ValueError: an argument of the tokens is out of its range, or an image is smaller than `minimum_size` pixels.
    """

    def __init__(self, num_classes: int, backbone: nn.Layer, *, fpn_channels: int = 256, tokens: int = 8,
                 token_channels: int = 1024, groups: int = 16, relation: str = 'transformer',
                 position_encoding: bool = True, dropout: float = 0.1, feat_strides: Sequence[int] | None = None,
                 bn_momentum: float = 0.9, pretrained: str | None = None, pretrained_allow: Sequence[str] = ()):
        super().__init__(num_classes, backbone, feat_strides=feat_strides)
        check_whole(fpn_channels=fpn_channels)
        check_token_arguments(fpn_channels, tokens=tokens, token_channels=token_channels, groups=groups,
                              relation=relation, what='fpn_channels')
        self.neck = TokenPyramid(self.feat_channels, fpn_channels, tokens=tokens, token_channels=token_channels,
                                 groups=groups, relation=relation, position_encoding=position_encoding,
                                 bn_momentum=bn_momentum)
        self.head = TokenPyramidHead(len(self.feat_channels), fpn_channels, num_classes, dropout=dropout,
                                     bn_momentum=bn_momentum)
        if pretrained is not None:
            load_pretrained(self, pretrained, allow=pretrained_allow)

    @staticmethod
    def training_outputs(arguments: dict) -> int:
        """How many logits a model with these YAML arguments returns in training, so how many losses it needs."""
        return 1

    def decode(self, maps: Sequence[paddle.Tensor]) -> paddle.Tensor:
        return self.head(self.neck(maps))
