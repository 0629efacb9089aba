"""What every segmentor over an exchangeable backbone does: check, run the backbone, run the heads, resize the logits.

Letters: N batch, H×W input size.
"""
from __future__ import annotations

from collections.abc import Sequence
from math import log2

import paddle
from paddle import nn

from paddleseg_ext.errors import UserError
from paddleseg_ext.layers.sizes import require_size, resize, spatial_size
from paddleseg_ext.models.fcn_head import FCNHead

__all__ = ['BackboneSegmentor', 'check_whole']


class BackboneSegmentor(nn.Layer):
    """Abstract: a subclass turns the backbone's maps into logits in `decode`, and may call `add_auxiliary_head`.

    Args:
        num_classes: classes of the logits, at least 1.
        backbone: gives a list of maps [N, feat_channels[i], about H/feat_strides[i], about W/feat_strides[i]], finest
            first.
        feat_strides: pixels from one position of each map to the next; None takes the backbone's own.

    Attributes:
        num_classes, backbone: as given.
        feat_channels, feat_strides: tuples, one entry a map.
        minimum_size: of height and width in pixels; exports write it to deploy.yaml. The backbone's own, or else its
            coarsest stride.

    Shapes: [N, in_channels, H, W] to a list of logits [N, num_classes, H, W]: `[main]`, and `[main, auxiliary]` in
    training with an auxiliary head.

    Raises:
        UserError: the backbone does not say its channels or strides, or another argument is out of its range.
        ValueError: an image is smaller than `minimum_size` pixels.
    """

    def __init__(self, num_classes: int, backbone: nn.Layer, *, feat_strides: Sequence[int] | None = None):
        super().__init__()
        check_whole(num_classes=num_classes)
        self.num_classes = num_classes
        self.backbone = backbone
        self.feat_channels = _feat_channels(backbone)
        self.feat_strides = _feat_strides(backbone, feat_strides, maps=len(self.feat_channels))
        least = getattr(backbone, 'minimum_size', None)
        self.minimum_size = least if isinstance(least, int) else max(self.feat_strides)
        self.auxiliary_head = None

    def add_auxiliary_head(self, *, index: int, channels: int, convolutions: int, dropout: float,
                           bn_momentum: float) -> None:
        """Train with an FCN head on map `index`.

        Raises:
            UserError: the backbone has no such map.
        """
        maps = len(self.feat_channels)
        if not isinstance(index, int) or not 0 <= index < maps:
            raise UserError(f'aux_index is {index!r}, but {type(self.backbone).__name__} gives {maps} maps: choose one '
                            f'of {list(range(maps))}, or set use_aux_head to False.')
        self.auxiliary_index = index
        self.auxiliary_head = FCNHead(self.feat_channels[index], self.num_classes, channels=channels,
                                      convolutions=convolutions, dropout=dropout, bn_momentum=bn_momentum)

    def decode(self, maps: Sequence[paddle.Tensor]) -> paddle.Tensor:
        """The main logits [N, num_classes, h, w] from the backbone's maps, at any size."""
        raise NotImplementedError(f'{type(self).__name__} does not say how it decodes the maps of its backbone.')

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        require_size(x, self.minimum_size, f'{type(self).__name__} over {type(self.backbone).__name__}')
        maps = self.backbone(x)
        if paddle.in_dynamic_mode():
            self._check_maps(x, maps)
        logits = [self.decode(maps)]
        if self.training and self.auxiliary_head is not None:
            logits.append(self.auxiliary_head(maps[self.auxiliary_index]))
        size = spatial_size(x)
        return [resize(logit, size) for logit in logits]

    def _check_maps(self, x: paddle.Tensor, maps: Sequence[paddle.Tensor]) -> None:
        """Whether the maps have the strides that were told, up to what rounding to the coarsest of them can change."""
        name, told = type(self.backbone).__name__, list(self.feat_strides)
        if len(maps) != len(told):
            raise UserError(f'{name} says the channels of {len(told)} maps (feat_channels), but gives {len(maps)}; '
                            'choose another backbone, or other outputs of this one.')
        sides = [(side, length, stride) for feature, stride in zip(maps, told)
                 for side, length in zip(feature.shape[2:], x.shape[2:])]
        if any(abs(side * stride - length) >= stride + max(told) for side, length, stride in sides):
            seen = [2**round(log2(max(x.shape[2:]) / max(feature.shape[2:]))) for feature in maps]
            raise UserError(f'feat_strides is {told}, but {name} gives maps of strides {seen}: write feat_strides: '
                            f'{seen}.')


def _feat_channels(backbone: nn.Layer) -> tuple[int, ...]:
    channels = getattr(backbone, 'feat_channels', None)
    if not channels:
        raise UserError(f'{type(backbone).__name__} does not say the channels of its maps (feat_channels), so no head '
                        'can be built over it; choose a backbone that does, for example Twins_SVT_S.')
    return tuple(channels)


def _feat_strides(backbone: nn.Layer, given: Sequence[int] | None, *, maps: int) -> tuple[int, ...]:
    strides = getattr(backbone, 'feat_strides', None) if given is None else given
    name = type(backbone).__name__
    if strides is None:
        raise UserError(f'{name} does not say the strides of its {maps} maps: write feat_strides in the model, one a '
                        f'map, finest first, for example feat_strides: {[4 * 2**index for index in range(maps)]}.')
    if len(strides) != maps:
        raise UserError(f'feat_strides has {len(strides)} entries, {list(strides)}, but {name} gives {maps} maps; '
                        'write one a map.')
    check_whole(**{f'feat_strides[{index}]': stride for index, stride in enumerate(strides)})
    if list(strides) != sorted(strides):
        raise UserError(f'feat_strides must not fall, finest map first, but is {list(strides)}.')
    return tuple(strides)


def check_whole(**values: int) -> None:
    """Raise a UserError that names the first of these arguments that is no whole number of at least 1."""
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise UserError(f'{name} must be a whole number of at least 1, but is {value!r}.')
