"""RTFormer, a dual-resolution real-time segmentor with transformer blocks.

Paper: "RTFormer: Efficient Design for Real-Time Semantic Segmentation with Transformer", arXiv 2210.07124, NeurIPS
2022. Released weights and recipes: PaddleSeg, `configs/rtformer` (Apache-2.0). Arguments, parameter names and numbers
are those of the `RTFormer` class of PaddleSeg 2.8.0, so its `.pdparams` and YAML files work unchanged.

Intended deviations, none of which changes a number in evaluation:
- cross-resolution attention is a batched matrix product, not a grouped convolution with as many groups as images, and
  nothing looks at a symbolic size: one export serves every batch and every size;
- adaptive max pooling is exact wherever it runs and never writes out of bounds (`layers/pooling.py`);
- normalisations run in float32 under mixed precision, and hold at batch 1 (`layers/normalisation.py`);
- batch norm keeps 0.9 of its running statistics a step. The reference passes the 0.1 of another framework's
  convention, with which Paddle keeps a tenth: there, evaluation uses little more than the last batch. Say
  `bn_momentum: 0.1` to have that;
- the attention of the low-resolution branch can be chosen by name, for ablations.

Letters: N batch, c base channels, H×W input size.
"""
from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.checkpoints.pretrained import load_pretrained
from paddleseg_ext.layers.attention import CellKeyValue, CrossResolutionAttention, ExternalAttention
from paddleseg_ext.layers.drop_path import DropPath
from paddleseg_ext.layers.normalisation import BatchNorm2D
from paddleseg_ext.layers.sizes import require_size, resize, spatial_size
from paddleseg_ext.registry import register

__all__ = ['DAPPM', 'RTFormer', 'RTFormerBlock', 'SegmentationHead']

# DAPPM: (kernel, stride, padding) of each average pool; None is the global pool.
DAPPM_POOLS = ((5, 2, 2), (9, 4, 4), (17, 8, 8), None)


class _Builder:
    """Makes the two layers everything is built from, with one batch-norm momentum and one learning-rate factor."""

    def __init__(self, bn_momentum: float, lr_mult: float = 1.):
        self.bn_momentum = bn_momentum
        self.lr_mult = lr_mult

    def norm(self, channels: int, epsilon: float = 1e-5) -> BatchNorm2D:
        rate = paddle.ParamAttr(learning_rate=self.lr_mult)
        return BatchNorm2D(channels, momentum=self.bn_momentum, epsilon=epsilon, weight_attr=rate, bias_attr=rate)

    def conv(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, bias: bool = False) -> nn.Conv2D:
        weight = paddle.ParamAttr(learning_rate=self.lr_mult, initializer=nn.initializer.KaimingNormal())
        zero = paddle.ParamAttr(learning_rate=self.lr_mult, initializer=nn.initializer.Constant(0.))
        return nn.Conv2D(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, weight_attr=weight,
                         bias_attr=zero if bias else False)

    def norm_relu_conv(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> list[nn.Layer]:
        return [self.norm(in_channels), nn.ReLU(), self.conv(in_channels, out_channels, kernel, stride)]


class ResidualBlock(nn.Layer):
    """Two 3×3 convolutions with batch norm, and a projection shortcut where stride or width change.

    Shapes: [N, in_channels, H, W] to [N, out_channels, ⌈H/stride⌉, ⌈W/stride⌉].
    """

    def __init__(self, in_channels: int, out_channels: int, build: _Builder, *, stride: int = 1,
                 last_relu: bool = True):
        super().__init__()
        self.conv1 = build.conv(in_channels, out_channels, 3, stride)
        self.bn1 = build.norm(out_channels)
        self.conv2 = build.conv(out_channels, out_channels, 3)
        self.bn2 = build.norm(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(build.conv(in_channels, out_channels, 1, stride), build.norm(out_channels))
        self.last_relu = last_relu

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + shortcut) if self.last_relu else y + shortcut


def _residual_stage(in_channels: int, out_channels: int, blocks: int, build: _Builder, *, stride: int = 1):
    # NOTE: the last block of a stage has no ReLU, but a stage of one block keeps it, because the reference does so.
    layers = [ResidualBlock(in_channels, out_channels, build, stride=stride)]
    layers += [ResidualBlock(out_channels, out_channels, build, last_relu=index < blocks - 1)
               for index in range(1, blocks)]
    return nn.Sequential(*layers)


class FeedForward(nn.Layer):
    """Batch norm and two 3×3 convolutions of equal width with GELU between. [N, C, H, W] to the same."""

    def __init__(self, channels: int, build: _Builder, *, drop_rate: float = 0.):
        super().__init__()
        self.norm = build.norm(channels, epsilon=1e-6)
        self.conv1 = build.conv(channels, channels, 3, bias=True)
        self.conv2 = build.conv(channels, channels, 3, bias=True)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.drop(F.gelu(self.conv1(self.norm(x))))
        return self.drop(self.conv2(x))


class RTFormerBlock(nn.Layer):
    """One block over both resolutions: attention and feed-forward on the low map, cross-resolution attention and
    feed-forward on the high map, and optionally the high map injected back into the low one.

    Args:
        high_channels: channels of the high-resolution map, kept.
        low_channels: channels of the low-resolution map before and after; where they differ the low map is halved.
        heads: groups of the low map's attention.
        cross_size: n, the low map is pooled to n×n cells for the keys and values.
        inject: add the high map, convolved down by 4, to the low map; the low map must then have a quarter of its side.
        attention: 'gfa', 'ea' or 'mhea'.

    Shapes: `high` [N, Ch, H, W] and `low` [N, Cl, h, w] to the same pair, `low` halved where its channels change.
    """

    def __init__(self, high_channels: int, low_channels: tuple[int, int], build: _Builder, *, heads: int,
                 drop_rate: float, drop_path_rate: float, inject: bool, cross_size: int, attention: str):
        super().__init__()
        low_in, low_out = low_channels
        self.attn_shortcut_l = None
        if low_in != low_out:
            self.attn_shortcut_l = nn.Sequential(build.norm(low_in), build.conv(low_in, low_out, 1, 2))
        self.attn_l = ExternalAttention(low_in, low_out, slots=low_out, heads=heads, kind=attention,
                                        bn_momentum=build.bn_momentum)
        self.mlp_l = FeedForward(low_out, build, drop_rate=drop_rate)
        self.drop_path = DropPath(drop_path_rate)
        self.compression = nn.Sequential(*build.norm_relu_conv(low_out, high_channels, 1))
        self.attn_h = CrossResolutionAttention(high_channels, bn_momentum=build.bn_momentum)
        self.mlp_h = FeedForward(high_channels, build, drop_rate=drop_rate)
        self.cross_kv = CellKeyValue(low_out, high_channels, cells=cross_size, bn_momentum=build.bn_momentum)
        self.down = None
        if inject:
            self.down = nn.Sequential(*build.norm_relu_conv(high_channels, low_out // 2, 3, 2),
                                      *build.norm_relu_conv(low_out // 2, low_out, 3, 2))

    def forward(self, high: paddle.Tensor, low: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        shortcut = low if self.attn_shortcut_l is None else self.attn_shortcut_l(low)
        low = shortcut + self.drop_path(self.attn_l(low))
        low = low + self.drop_path(self.mlp_l(low))

        high = high + resize(self.compression(low), spatial_size(high))
        high = high + self.drop_path(self.attn_h(high, self.cross_kv(low)))
        high = high + self.drop_path(self.mlp_h(high))
        if self.down is not None:
            low = low + self.down(high)
        return high, low


class DAPPM(nn.Layer):
    """Deep aggregation pyramid pooling (arXiv 2101.06085): five scales, each refined with the one before.

    Shapes: [N, in_channels, H, W] to [N, out_channels, H, W].
    """

    def __init__(self, in_channels: int, inter_channels: int, out_channels: int, build: _Builder):
        super().__init__()
        self.scale0 = nn.Sequential(*build.norm_relu_conv(in_channels, inter_channels, 1))
        for index, pool in enumerate(DAPPM_POOLS, 1):
            pooling = nn.AdaptiveAvgPool2D(1) if pool is None else nn.AvgPool2D(*pool, exclusive=False)
            project = build.norm_relu_conv(in_channels, inter_channels, 1)
            setattr(self, f'scale{index}', nn.Sequential(pooling, *project))
            setattr(self, f'process{index}', nn.Sequential(*build.norm_relu_conv(inter_channels, inter_channels, 3)))
        scales = len(DAPPM_POOLS) + 1
        self.compression = nn.Sequential(*build.norm_relu_conv(inter_channels * scales, out_channels, 1))
        self.shortcut = nn.Sequential(*build.norm_relu_conv(in_channels, out_channels, 1))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        size = spatial_size(x)
        maps = [self.scale0(x)]
        for index in range(1, len(DAPPM_POOLS) + 1):
            pooled = resize(getattr(self, f'scale{index}')(x), size)
            maps.append(getattr(self, f'process{index}')(pooled + maps[-1]))
        return self.compression(paddle.concat(maps, axis=1)) + self.shortcut(x)


class SegmentationHead(nn.Layer):
    """Batch norm, ReLU, 3×3 convolution, batch norm, ReLU, 1×1 convolution to the classes.

    Shapes: [N, in_channels, H, W] to [N, num_classes, H, W].
    """

    def __init__(self, in_channels: int, inter_channels: int, num_classes: int, build: _Builder):
        super().__init__()
        self.bn1 = build.norm(in_channels)
        self.conv1 = build.conv(in_channels, inter_channels, 3)
        self.bn2 = build.norm(inter_channels)
        self.conv2 = build.conv(inter_channels, num_classes, 1, bias=True)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.conv1(F.relu(self.bn1(x)))
        return self.conv2(F.relu(self.bn2(x)))


@register('model', replaces_paddleseg=True)
class RTFormer(nn.Layer):
    """RTFormer segmentor.

    Args:
        num_classes: classes of the logits.
        layer_nums: residual blocks of stages 1, 2, 3; the fourth number is accepted and unused, as in PaddleSeg.
        base_channels: c, 64 for Base and 32 for Slim.
        spp_channels: inner channels of DAPPM.
        num_heads: groups of the grouped double normalisation.
        head_channels: channels of the auxiliary head; the main head has twice as many. 128 for Base, 64 for Slim.
        drop_rate: dropout inside the feed-forward layers, in [0, 1).
        drop_path_rate: drop path in both RTFormer blocks, in [0, 1).
        use_aux_head: train with a second head on the stride-8 map of stage 3.
        use_injection: for each of the two blocks, whether the high map is added to the low one.
        lr_mult: learning-rate factor of DAPPM and heads.
        cross_size: n, cells along a side of the keys of cross-resolution attention.
        in_channels: channels of the input, at least 1.
        pretrained: path or address of weights; heads of another number of classes start fresh.
        attention: attention of the low branch: 'gfa' (published), 'ea' or 'mhea'.
        bn_momentum: share of the running statistics that batch norm keeps a step, in [0, 1].
        pretrained_allow: name patterns of other weights that may be missing, of another shape or left over.

    Shapes: [N, in_channels, H, W], H and W at least 32, to a list of logits [N, num_classes, H, W]: `[main]` in
    evaluation, `[main, auxiliary]` in training with `use_aux_head`.

    Raises:
        ValueError: an argument is out of its range, or an image is smaller than `minimum_size` pixels.
    """

    minimum_size = 32  # of height and width; exports write it to deploy.yaml
    first_convolution = 'conv1.0.weight'

    def __init__(self,
                 num_classes: int,
                 layer_nums: Sequence[int] = (2, 2, 2, 2),
                 base_channels: int = 64,
                 spp_channels: int = 128,
                 num_heads: int = 8,
                 head_channels: int = 128,
                 drop_rate: float = 0.,
                 drop_path_rate: float = 0.2,
                 use_aux_head: bool = True,
                 use_injection: Sequence[bool] = (True, True),
                 lr_mult: float = 10.,
                 cross_size: int = 12,
                 in_channels: int = 3,
                 pretrained: str | None = None,
                 attention: str = 'gfa',
                 bn_momentum: float = 0.9,
                 pretrained_allow: Sequence[str] = ()):
        super().__init__()
        _check_arguments(num_classes, layer_nums, use_injection, in_channels, cross_size)
        self.use_aux_head = use_aux_head
        build = _Builder(bn_momentum)
        self._build_trunk(in_channels, base_channels, layer_nums, build)
        c = base_channels
        block = {'heads': num_heads, 'drop_rate': drop_rate, 'drop_path_rate': drop_path_rate,
                 'cross_size': cross_size, 'attention': attention}
        self.layer4 = RTFormerBlock(2 * c, (4 * c, 8 * c), build, inject=use_injection[0], **block)
        self.layer5 = RTFormerBlock(2 * c, (8 * c, 8 * c), build, inject=use_injection[1], **block)

        build = _Builder(bn_momentum, lr_mult)
        self.spp = DAPPM(8 * c, spp_channels, 2 * c, build)
        self.seghead = SegmentationHead(4 * c, 2 * head_channels, num_classes, build)
        if use_aux_head:
            self.seghead_extra = SegmentationHead(2 * c, head_channels, num_classes, build)
        if pretrained is not None:
            load_pretrained(self, pretrained, allow=pretrained_allow,
                            may_start_fresh=('spp.*', 'seghead.*', 'seghead_extra.*'))

    def _build_trunk(self, in_channels: int, c: int, layer_nums: Sequence[int], build: _Builder) -> None:
        self.conv1 = nn.Sequential(build.conv(in_channels, c, 3, 2, bias=True), build.norm(c), nn.ReLU(),
                                   build.conv(c, c, 3, 2, bias=True), build.norm(c), nn.ReLU())
        self.layer1 = _residual_stage(c, c, layer_nums[0], build)
        self.layer2 = _residual_stage(c, 2 * c, layer_nums[1], build, stride=2)
        self.layer3 = _residual_stage(2 * c, 4 * c, layer_nums[2], build, stride=2)
        self.layer3_ = _residual_stage(2 * c, 2 * c, 1, build)
        self.compression3 = nn.Sequential(*build.norm_relu_conv(4 * c, 2 * c, 1))

    @staticmethod
    def training_outputs(arguments: dict) -> int:
        """How many logits a model with these YAML arguments returns in training, so how many losses it needs."""
        return 2 if arguments.get('use_aux_head', True) else 1

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        require_size(x, self.minimum_size, 'RTFormer')
        quarter = self.layer1(self.conv1(x))  # [N, c, H/4, W/4]
        eighth = self.layer2(F.relu(quarter))  # [N, 2c, H/8, W/8]
        low = self.layer3(F.relu(eighth))  # [N, 4c, H/16, W/16]
        high = eighth + resize(self.compression3(low), spatial_size(eighth))
        stage3 = self.layer3_(F.relu(high))  # [N, 2c, H/8, W/8]

        high, low = self.layer4(F.relu(stage3), F.relu(low))  # [N, 2c, H/8, W/8], [N, 8c, H/32, W/32]
        high, low = self.layer5(F.relu(high), F.relu(low))
        context = resize(self.spp(low), spatial_size(high))  # [N, 2c, H/8, W/8]

        logits = [self.seghead(paddle.concat([high, context], axis=1))]
        if self.training and self.use_aux_head:
            logits.append(self.seghead_extra(stage3))
        size = spatial_size(x)
        return [resize(logit, size) for logit in logits]


def _check_arguments(num_classes, layer_nums, use_injection, in_channels, cross_size) -> None:
    for name, value in (('num_classes', num_classes), ('in_channels', in_channels), ('cross_size', cross_size)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f'{name} must be a whole number of at least 1, but is {value!r}.')
    for name, values, length in (('layer_nums', layer_nums, 4), ('use_injection', use_injection, 2)):
        if len(values) != length:
            raise ValueError(f'{name} must have {length} entries, one a stage, but has {len(values)}: {values!r}.')
    if min(layer_nums) < 1:
        raise ValueError(f'every stage needs at least one block, but layer_nums is {layer_nums!r}.')
