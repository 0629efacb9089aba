"""Twins: PCPVT and SVT, hierarchical vision transformers with local and sub-sampled global attention.

Paper: "Twins: Revisiting the Design of Spatial Attention in Vision Transformers", arXiv 2104.13840, NeurIPS 2021.
Released weights: the authors (github.com/Meituan-AutoML/Twins, Apache-2.0), timm, mmsegmentation and PaddleClas;
`pretrained` takes all of them.

Two references differ where sizes do not divide, and `lsa_padding` chooses between them with the same weights:
- 'mask', mmsegmentation: a patch embedding pads its input to whole patches with zeros at the right and at the bottom;
  cells that pad the windows of local attention are never attended.
- 'zero', timm: what fills no whole patch is dropped; the windows' padding takes part in the attention as zeros.

Intended deviations:
- mmsegmentation's mask marks every cell where only one side needs padding, which is the same as no mask; ours marks
  the padded ones. The numbers differ from it in that case alone;
- one export serves every batch and size.

Letters: N batch, C channels of a stage, H×W its map, h heads, d = C/h, s×s windows of local attention.
"""
from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import paddle
from paddle import nn

from paddleseg_ext.backbones.classification import register_classifier
from paddleseg_ext.checkpoints.pretrained import load_pretrained
from paddleseg_ext.layers.drop_path import DropPath
from paddleseg_ext.layers.feed_forward import FeedForward
from paddleseg_ext.layers.scaled_attention import scaled_attention
from paddleseg_ext.layers.sizes import batch_size, require_channels, require_size, spatial_size
from paddleseg_ext.layers.tokens import (
    fits_windows,
    map_to_windows,
    to_channels_first,
    to_channels_last,
    window_padding,
    windows_to_map,
)
from paddleseg_ext.registry import register

__all__ = ['Twins', 'TwinsClassifier', 'VARIANTS', 'Variant']


@dataclass(frozen=True)
class Variant:
    """Sizes of a Twins backbone, one entry a stage.

    Attributes:
        channels: of the maps.
        heads: of the attention.
        mlp_ratios: hidden channels of the feed-forward layers over those of the map.
        depths: blocks.
        local: blocks 0, 2, 4 … attend within windows and a norm follows each stage (SVT); else all are global (PCPVT).
    """

    channels: tuple[int, ...]
    heads: tuple[int, ...]
    mlp_ratios: tuple[int, ...]
    depths: tuple[int, ...]
    local: bool

    def __post_init__(self):
        lengths = {name: len(value) for name, value in vars(self).items() if name != 'local'}
        if set(lengths.values()) != {len(PATCHES)}:
            raise ValueError(f'every table needs {len(PATCHES)} entries, one a stage, but these have {lengths}.')


PATCHES = (4, 2, 2, 2)
SUBSAMPLING = (8, 4, 2, 1)
WINDOW = 7

# Tables 1 and 2 of the paper, and gvt.py of github.com/Meituan-AutoML/Twins. Patches, sub-sampling and window are the
# same in all.
#                            channels               heads            mlp ratios    depths          local
VARIANTS = {
    'Twins_PCPVT_S': Variant((64, 128, 320, 512),   (1, 2, 5, 8),    (8, 8, 4, 4), (3, 4, 6, 3),   False),
    'Twins_PCPVT_B': Variant((64, 128, 320, 512),   (1, 2, 5, 8),    (8, 8, 4, 4), (3, 4, 18, 3),  False),
    'Twins_PCPVT_L': Variant((64, 128, 320, 512),   (1, 2, 5, 8),    (8, 8, 4, 4), (3, 8, 27, 3),  False),
    'Twins_SVT_S':   Variant((64, 128, 256, 512),   (2, 4, 8, 16),   (4, 4, 4, 4), (2, 2, 10, 4),  True),
    'Twins_SVT_B':   Variant((96, 192, 384, 768),   (3, 6, 12, 24),  (4, 4, 4, 4), (2, 2, 18, 2),  True),
    'Twins_SVT_L':   Variant((128, 256, 512, 1024), (4, 8, 16, 32),  (4, 4, 4, 4), (2, 2, 18, 2),  True),
}


class PatchEmbedding(nn.Layer):
    """A convolution whose kernel is its stride, and a layer norm.

    Args:
        pads: pad to whole patches with zeros at the right and at the bottom, else drop what fills none.

    Shapes: [N, in_channels, H, W] to [N, H/patch, W/patch, channels], rounded up if `pads`, else down.
    """

    def __init__(self, in_channels: int, channels: int, patch: int, *, pads: bool):
        super().__init__()
        # NOTE: a whole patch less one at the right and bottom is the least that covers every size; the stride ignores
        # what is too much, so the padding need not know the size.
        padding = [0, patch - 1, 0, patch - 1] if pads else 0
        self.proj = nn.Conv2D(in_channels, channels, patch, stride=patch, padding=padding)
        self.norm = nn.LayerNorm(channels, epsilon=1e-5)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.norm(to_channels_last(self.proj(x)))


class PositionEncoding(nn.Layer):
    """Position encoding generator (PEG, arXiv 2102.10882): a 3×3 depth-wise convolution added to its input.

    Shapes: [N, H, W, C] to the same.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.proj = nn.Conv2D(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x + to_channels_last(self.proj(to_channels_first(x)))


class LocalAttention(nn.Layer):
    """Locally-grouped self-attention (LSA): every cell attends the cells of its window.

    Args:
        masks: cells that pad the windows are never attended; else they take part as zeros.

    Shapes: [N, H, W, C] to the same.
    """

    def __init__(self, channels: int, heads: int, window: int, *, masks: bool):
        super().__init__()
        self.heads = heads
        self.window = window
        self.masks = masks
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        size = spatial_size(x, axis=1)
        channels = x.shape[-1]
        qkv = self.qkv(map_to_windows(x, size, self.window))  # [N, windows, s·s, 3C]
        query, key, value = qkv.reshape([-1, self.window**2, 3, self.heads, channels // self.heads]).unbind(axis=2)
        bias = self._bias(x, size) if self.masks and not fits_windows(size, self.window) else None
        y = scaled_attention(query, key, value, bias)  # [N·windows, s·s, h, d]
        y = windows_to_map(y.reshape([-1, self.window**2, channels]), size, self.window)
        return self.proj(y)

    def _bias(self, x: paddle.Tensor, size) -> paddle.Tensor:
        """[N·windows, 1, 1, s·s]: so low for padding that its weight is zero in every precision."""
        bias = (window_padding(size, self.window) * -1e4).astype(x.dtype)
        return bias.tile([batch_size(x), 1]).unsqueeze([1, 2])


class GlobalAttention(nn.Layer):
    """Global sub-sampled attention (GSA): every cell attends cells of a map that a convolution made smaller.

    Args:
        ratio: side of the patches that become one key, 1 for none.

    Shapes: [N, H, W, C] to the same; rows and columns that fill no whole patch have no key.
    """

    def __init__(self, channels: int, heads: int, ratio: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.sr = None
        if ratio > 1:
            self.sr = nn.Conv2D(channels, channels, ratio, stride=ratio)
            self.norm = nn.LayerNorm(channels, epsilon=1e-5)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        height, width = spatial_size(x, axis=1)
        channels = x.shape[-1]
        query = self.q(x).reshape([0, -1, self.heads, channels // self.heads])  # [N, HW, h, d]
        key_value = self.kv(self.sub_sampled(x)).reshape([0, -1, 2, self.heads, channels // self.heads])
        y = scaled_attention(query, *key_value.unbind(axis=2))
        return self.proj(y.reshape([-1, height, width, channels]))

    def sub_sampled(self, x: paddle.Tensor) -> paddle.Tensor:
        """The map that keys and values are made of: [N, H, W, C] to [N, ⌊H/ratio⌋, ⌊W/ratio⌋, C]."""
        return x if self.sr is None else self.norm(to_channels_last(self.sr(to_channels_first(x))))


class Block(nn.Layer):
    """Attention and feed-forward layer, each behind a layer norm and beside a shortcut. [N, H, W, C] to the same."""

    def __init__(self, attention: nn.Layer, channels: int, mlp_ratio: int, *, drop_rate: float,
                 drop_path_rate: float, norm_epsilon: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, epsilon=norm_epsilon)
        self.attn = attention
        self.norm2 = nn.LayerNorm(channels, epsilon=norm_epsilon)
        self.mlp = FeedForward(channels, mlp_ratio, drop_rate=drop_rate)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Layer):
    """Patch embedding, blocks with the position encoding after the first, and where asked for a last norm.

    Shapes: [N, in_channels, H, W] to [N, C, H/patch, W/patch].
    """

    def __init__(self, patch_embed: PatchEmbedding, blocks: Sequence[Block], channels: int, norm: nn.Layer | None):
        super().__init__()
        self.patch_embed = patch_embed
        self.blocks = nn.LayerList(blocks)
        self.position = PositionEncoding(channels)
        self.norm = norm

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.patch_embed(x)
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index == 0:
                x = self.position(x)
        return to_channels_first(x if self.norm is None else self.norm(x))


class Twins(nn.Layer):
    """The backbone behind all variants; YAML names `Twins_PCPVT_S` and so on.

    Args:
        variant: its sizes.
        norm_after_stage: a layer norm on the map of each stage, as SVT's segmentors have and its classifiers have not.

    The others as of `Twins_SVT_S` and its siblings, below.

    Shapes: [N, in_channels, H, W], H and W at least 32, to four maps of strides 4, 8, 16 and 32 and
    `feat_channels` channels.

    Raises:
        ValueError: an argument is out of its range, or an image is smaller than `minimum_size` pixels.
    """

    minimum_size = 32
    feat_strides = [4, 8, 16, 32]
    first_convolution = 'stages.0.patch_embed.proj.weight'

    def __init__(self, variant: Variant, *, norm_after_stage: bool, in_channels: int = 3, lsa_padding: str = 'mask',
                 drop_rate: float = 0., drop_path_rate: float = 0., norm_epsilon: float = 1e-6,
                 pretrained: str | None = None, pretrained_allow: Sequence[str] = ()):
        super().__init__()
        if lsa_padding not in ('mask', 'zero'):
            raise ValueError(f"lsa_padding must be 'mask' (mmsegmentation) or 'zero' (timm), but is {lsa_padding!r}.")
        require_channels(in_channels)
        self.feat_channels = list(variant.channels)
        masks = lsa_padding == 'mask'
        rates = iter(_linear_rates(drop_path_rate, sum(variant.depths)))
        stages = []
        for index, channels in enumerate(variant.channels):
            blocks = [Block(_attention(variant, index, block, masks), channels, variant.mlp_ratios[index],
                            drop_rate=drop_rate, drop_path_rate=next(rates), norm_epsilon=norm_epsilon)
                      for block in range(variant.depths[index])]
            embedding = PatchEmbedding((in_channels, *variant.channels)[index], channels, PATCHES[index], pads=masks)
            norm = nn.LayerNorm(channels, epsilon=norm_epsilon) if norm_after_stage else None
            stages.append(Stage(embedding, blocks, channels, norm))
        self.stages = nn.LayerList(stages)
        self.apply(_initialise)
        if pretrained is not None:
            load_pretrained(self, pretrained, allow=pretrained_allow)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        require_size(x, self.minimum_size, 'Twins')
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    @staticmethod
    def identify(shapes: Mapping[str, Sequence[int]]) -> str | None:
        """The variant whose backbone has weights of these names and shapes, None where no variant has."""
        def blocks(stage: int) -> int:
            return sum(f'stages.{stage}.blocks.{index}.norm1.weight' in shapes for index in range(len(shapes)))

        stages = range(len(PATCHES))
        depths = tuple(blocks(stage) for stage in stages)
        channels = tuple(shapes.get(f'stages.{stage}.patch_embed.proj.weight', (0,))[0] for stage in stages)
        local = 'stages.0.blocks.0.attn.qkv.weight' in shapes
        return next((name for name, variant in VARIANTS.items()
                     if (variant.channels, variant.depths, variant.local) == (channels, depths, local)), None)


def _attention(variant: Variant, stage: int, block: int, masks: bool) -> nn.Layer:
    channels, heads = variant.channels[stage], variant.heads[stage]
    if variant.local and block % 2 == 0:
        return LocalAttention(channels, heads, WINDOW, masks=masks)
    return GlobalAttention(channels, heads, SUBSAMPLING[stage])


def _linear_rates(last: float, blocks: int) -> list[float]:
    """Drop path rates that rise evenly from 0 in the first block to `last` in the last one."""
    return [last * index / max(blocks - 1, 1) for index in range(blocks)]


def _initialise(layer: nn.Layer) -> None:
    """Linear maps normal of deviation 0.02 cut at two, convolutions normal by fan-out; biases zero."""
    if isinstance(layer, nn.Linear):
        nn.initializer.TruncatedNormal(std=0.02)(layer.weight)
    elif isinstance(layer, nn.Conv2D):
        fan_out = layer.weight.shape[0] * math.prod(layer.weight.shape[2:]) // layer._groups
        nn.initializer.Normal(std=math.sqrt(2. / fan_out))(layer.weight)
        nn.initializer.Constant(0.)(layer.bias)


class TwinsClassifier(nn.Layer):
    """Twins with the classifier of the released ImageNet weights: layer norm, mean over the last map, linear map.

    Args:
        num_classes: of the logits, at least 1.

    The others as of the backbone; `pretrained` is the whole classifier.

    Shapes: [N, in_channels, H, W], H and W at least 32, to logits [N, num_classes].
    """

    def __init__(self, variant: Variant, *, num_classes: int, norm_epsilon: float = 1e-6,
                 pretrained: str | None = None, pretrained_allow: Sequence[str] = (), **backbone):
        super().__init__()
        self.backbone = Twins(variant, norm_after_stage=False, norm_epsilon=norm_epsilon, **backbone)
        self.norm = nn.LayerNorm(variant.channels[-1], epsilon=norm_epsilon)
        self.head = nn.Linear(variant.channels[-1], num_classes)
        _initialise(self.head)
        if pretrained is not None:
            load_pretrained(self, pretrained, allow=pretrained_allow)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.norm(to_channels_last(self.backbone(x)[-1]))
        return self.head(x.mean(axis=[1, 2]))


def _register(name: str, variant: Variant) -> None:
    def backbone(in_channels: int = 3, lsa_padding: str = 'mask', drop_rate: float = 0., drop_path_rate: float = 0.,
                 norm_epsilon: float = 1e-6, pretrained: str | None = None,
                 pretrained_allow: Sequence[str] = ()) -> Twins:
        return Twins(variant, norm_after_stage=variant.local, in_channels=in_channels, lsa_padding=lsa_padding,
                     drop_rate=drop_rate, drop_path_rate=drop_path_rate, norm_epsilon=norm_epsilon,
                     pretrained=pretrained, pretrained_allow=pretrained_allow)

    backbone.__name__ = backbone.__qualname__ = name
    backbone.__doc__ = f"""{name.replace('_', '-')}: maps of strides 4, 8, 16, 32 and {variant.channels} channels.

    Args:
        in_channels: channels of the images, at least 1; the first convolution of pretrained weights is adapted.
        lsa_padding: 'mask' for mmsegmentation's arithmetic where sizes do not divide, 'zero' for timm's.
        drop_rate: dropout in the feed-forward layers, in [0, 1).
        drop_path_rate: drop path of the last block, in [0, 1); it rises evenly from 0 in the first.
        norm_epsilon: of the layer norms in and after the blocks; mmsegmentation trains with 1e-5.
        pretrained: path, address or `timm/` name of weights in any of the released formats, or of our own.
        pretrained_allow: patterns of weights that may be missing or left over.
    """
    register('backbone')(backbone)
    register_classifier(name, functools.partial(TwinsClassifier, variant))


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)
