"""XCiT: columnar vision transformers whose channels attend channels, so that they cost what they see.

Paper: "XCiT: Cross-Covariance Image Transformers", arXiv 2106.09681, NeurIPS 2021.
Released weights: the authors (github.com/facebookresearch/xcit, Apache-2.0: ImageNet, DINO, segmentors on ADE20K), timm
and PaddleViT; `pretrained` takes all of them.

Sizes that are no multiple of the patch follow both references: every convolution of the patch embedding rounds up, so
there are ⌈H/patch⌉×⌈W/patch⌉ tokens, from which the pyramid's maps are made; its max pools round down.

Intended deviations, none of which changes a number in evaluation:
- `in_channels` reaches the first convolution, and batch norm works on a CPU;
- `frozen_bn`;
- positions are made of rows and columns without a map of a batch, and the projection of the attention is applied to the
  attention instead of the tokens;
- one export serves every batch and size.

Letters: N batch, C channels, H×W map of tokens, h heads, d = C/h.
"""
from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.backbones.classification import register_classifier
from paddleseg_ext.checkpoints.pretrained import load_pretrained
from paddleseg_ext.layers.class_attention import ClassAttentionBlock
from paddleseg_ext.layers.cross_covariance import CrossCovarianceAttention
from paddleseg_ext.layers.drop_path import DropPath
from paddleseg_ext.layers.feed_forward import FeedForward
from paddleseg_ext.layers.fourier_positions import FourierPositions
from paddleseg_ext.layers.frozen_norm import FrozenBatchNorm2D
from paddleseg_ext.layers.normalisation import BatchNorm2D
from paddleseg_ext.layers.sizes import batch_size, require_channels, require_size, spatial_size
from paddleseg_ext.layers.tokens import to_channels_first, to_channels_last
from paddleseg_ext.registry import register

__all__ = ['VARIANTS', 'Variant', 'XCiT', 'XCiTClassifier']


@dataclass(frozen=True)
class Variant:
    """Sizes of an XCiT backbone.

    Attributes:
        channels: of the tokens.
        depth: blocks.
        heads: of the attention.
        scale: first value of LayerScale (eta).
        tokens_norm: whether the classifier's blocks normalise all tokens or the class token alone.
        patch: pixels along the side of a token, 16 or 8.
    """

    channels: int
    depth: int
    heads: int
    scale: float
    tokens_norm: bool
    patch: int

    def __post_init__(self):
        if self.patch not in DOUBLINGS:
            raise ValueError(f'patch must be one of {", ".join(map(str, DOUBLINGS))} pixels, but is {self.patch}.')
        if self.channels % self.heads or self.channels % 8:
            raise ValueError(f'channels must be a multiple of 8 and of the {self.heads} heads, but is {self.channels}.')


STRIDES = (4, 8, 16, 32)
MLP_RATIO = 4
NORM_EPSILON = 1e-6
CLASS_BLOCKS = 2
# The blocks whose tokens become the pyramid, by depth: github.com/facebookresearch/xcit, semantic_segmentation/configs.
OUT_INDICES = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}
# How often each map of the pyramid is doubled, by patch: from the stride of the tokens to 4, 8, 16 and 32.
DOUBLINGS = {16: (2, 1, 0, -1), 8: (1, 0, -1, -2)}

# Table 1 of the paper, and github.com/facebookresearch/xcit, xcit.py; each comes with patches of 16 and of 8 pixels.
#           channels  depth  heads  scale  tokens_norm
SIZES = {
    'N12': (128,      12,    4,     1.,    False),
    'T12': (192,      12,    4,     1.,    True),
    'T24': (192,      24,    4,     1e-5,  True),
    'S12': (384,      12,    8,     1.,    True),
    'S24': (384,      24,    8,     1e-5,  True),
    'M24': (512,      24,    8,     1e-5,  True),
    'L24': (768,      24,    16,    1e-5,  True),
}
VARIANTS = {f'XCiT_{size}_P{patch}': Variant(*row, patch) for size, row in SIZES.items() for patch in DOUBLINGS}

Norm = Callable[[int], nn.Layer]


class Halving(nn.Layer):
    """A 3×3 convolution of stride 2 and a batch norm. [N, in_channels, H, W] to [N, channels, ⌈H/2⌉, ⌈W/2⌉]."""

    def __init__(self, in_channels: int, channels: int, norm: Norm):
        super().__init__()
        self.conv = nn.Conv2D(in_channels, channels, 3, stride=2, padding=1, bias_attr=False)
        self.bn = norm(channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.bn(self.conv(x))


class LocalPatchInteraction(nn.Layer):
    """LPI: two depth-wise 3×3 convolutions with GELU and batch norm between. [N, H, W, C] to the same."""

    def __init__(self, channels: int, norm: Norm):
        super().__init__()
        self.conv1 = nn.Conv2D(channels, channels, 3, padding=1, groups=channels)
        self.bn = norm(channels)
        self.conv2 = nn.Conv2D(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.bn(F.gelu(self.conv1(to_channels_first(x))))
        return to_channels_last(self.conv2(x))


class Block(nn.Layer):
    """Cross-covariance attention, local patch interaction and feed-forward layer, in this order.

    Each stands behind a layer norm and beside a shortcut, and LayerScale multiplies what it adds.

    Shapes: [N, H, W, C] to the same.
    """

    def __init__(self, variant: Variant, norm: Norm, *, drop_rate: float, drop_path_rate: float):
        super().__init__()
        channels = variant.channels
        self.norm1 = nn.LayerNorm(channels, epsilon=NORM_EPSILON)
        self.attn = CrossCovarianceAttention(channels, variant.heads, drop_rate=drop_rate)
        # NOTE: 3 comes before 2, as the numbers are those of the released weights.
        self.norm3 = nn.LayerNorm(channels, epsilon=NORM_EPSILON)
        self.local = LocalPatchInteraction(channels, norm)
        self.norm2 = nn.LayerNorm(channels, epsilon=NORM_EPSILON)
        self.mlp = FeedForward(channels, MLP_RATIO, drop_rate=drop_rate)
        self.drop_path = DropPath(drop_path_rate)
        for name in ('gamma1', 'gamma3', 'gamma2'):
            scale = self.create_parameter([channels], default_initializer=nn.initializer.Constant(variant.scale))
            self.add_parameter(name, scale)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        height, width = spatial_size(x, axis=1)
        channels = x.shape[-1]
        y = self.attn(self.norm1(x).reshape([0, -1, channels]))  # [N, HW, C]
        x = x + self.drop_path(self.gamma1 * y.reshape([-1, height, width, channels]))
        x = x + self.drop_path(self.gamma3 * self.local(self.norm3(x)))
        return x + self.drop_path(self.gamma2 * self.mlp(self.norm2(x)))


class PyramidLevel(nn.Layer):
    """A map doubled by transposed convolutions, or halved by a max pool.

    Args:
        doublings: 2 or 1, 0 for the map as it is, -1 and -2 for one max pool of 2×2 and 4×4.

    Shapes: [N, C, H, W] to [N, C, H·2^doublings, W·2^doublings], rounded down.
    """

    def __init__(self, channels: int, doublings: int, norm: Norm):
        super().__init__()
        self.pool = 2**max(-doublings, 0)
        self.up1 = _doubling(channels) if doublings >= 1 else None
        self.bn = norm(channels) if doublings == 2 else None
        self.up2 = _doubling(channels) if doublings == 2 else None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if self.up1 is not None:
            x = self.up1(x)
        if self.up2 is not None:
            x = self.up2(F.gelu(self.bn(x)))
        if self.pool > 1:
            x = F.max_pool2d(x, self.pool, stride=self.pool)
        return x


def _doubling(channels: int) -> nn.Layer:
    return nn.Conv2DTranspose(channels, channels, 2, stride=2)


class XCiT(nn.Layer):
    """The backbone behind all variants; YAML names `XCiT_S12_P16` and so on.

    Args:
        variant: its sizes.
        pyramid: make maps of four strides; else the maps are those of the tokens, as many as `out_indices`.

    The others as of `XCiT_S12_P16` and its siblings, below.

    Shapes: [N, in_channels, H, W], H and W at least 32, to four maps of strides 4, 8, 16 and 32, all of C channels.
    Over h×w tokens, h = ⌈H/patch⌉, those of patch 16 are of 4h×4w, 2h×2w, h×w and ⌊h/2⌋×⌊w/2⌋ cells, those of patch 8
    of 2h×2w, h×w, ⌊h/2⌋×⌊w/2⌋ and ⌊h/4⌋×⌊w/4⌋.

    Raises:
        ValueError: an argument is out of its range, or an image is smaller than `minimum_size` pixels.
    """

    minimum_size = 32
    first_convolution = 'patch_embed.0.conv.weight'

    def __init__(self, variant: Variant, *, pyramid: bool = True, in_channels: int = 3,
                 out_indices: Sequence[int] | None = None, drop_rate: float = 0., drop_path_rate: float = 0.,
                 frozen_bn: bool = False, pretrained: str | None = None, pretrained_allow: Sequence[str] = ()):
        super().__init__()
        require_channels(in_channels)
        self.out_indices = _checked_indices(out_indices, variant.depth, len(STRIDES) if pyramid else None)
        self.feat_channels = [variant.channels] * len(self.out_indices)
        self.feat_strides = list(STRIDES) if pyramid else [variant.patch] * len(self.out_indices)
        norm = FrozenBatchNorm2D if frozen_bn else BatchNorm2D
        self.patch_embed = _patch_embedding(in_channels, variant, norm)
        self.position = FourierPositions(variant.channels)
        self.drop = nn.Dropout(drop_rate)
        self.blocks = nn.LayerList([Block(variant, norm, drop_rate=drop_rate, drop_path_rate=drop_path_rate)
                                    for _ in range(variant.depth)])
        levels = [PyramidLevel(variant.channels, doublings, norm) for doublings in DOUBLINGS[variant.patch]]
        self.pyramid = nn.LayerList(levels) if pyramid else None
        for block in list(self.blocks)[self.out_indices[-1] + 1:]:
            for parameter in block.parameters():
                parameter.stop_gradient = True
        self.apply(_initialise)
        if pretrained is not None:
            load_pretrained(self, pretrained, allow=pretrained_allow)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        require_size(x, self.minimum_size, 'XCiT')
        maps = self._maps(self._embed(x))
        return maps if self.pyramid is None else [level(x) for level, x in zip(self.pyramid, maps)]

    def _embed(self, x: paddle.Tensor) -> paddle.Tensor:
        """Images to tokens with their positions, [N, H, W, C]."""
        for index, step in enumerate(self.patch_embed):
            x = step(x if index == 0 else F.gelu(x))
        x = to_channels_last(x)
        return self.drop(x + self.position(spatial_size(x, axis=1)))

    def _maps(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """The tokens behind the blocks of `out_indices`, each [N, C, H, W]."""
        maps = []
        for index in range(self.out_indices[-1] + 1):
            x = self.blocks[index](x)
            if index in self.out_indices:
                maps.append(to_channels_first(x))
        return maps

    @staticmethod
    def identify(shapes: Mapping[str, Sequence[int]]) -> str | None:
        """The variant whose backbone has weights of these names and shapes, None where no variant has."""
        depth = sum(f'blocks.{index}.norm1.weight' in shapes for index in range(len(shapes)))
        heads = shapes.get('blocks.0.attn.temperature', (0,))[0]
        halvings = sum(f'patch_embed.{index}.conv.weight' in shapes for index in range(len(shapes)))
        channels = shapes.get(f'patch_embed.{halvings - 1}.conv.weight', (0,))[0]
        sizes = (channels, depth, heads, 2**halvings)
        return next((name for name, each in VARIANTS.items()
                     if (each.channels, each.depth, each.heads, each.patch) == sizes), None)


def _patch_embedding(in_channels: int, variant: Variant, norm: Norm) -> nn.LayerList:
    """As many halvings as make a patch one cell; the channels double up to those of the variant."""
    halvings = int(math.log2(variant.patch))
    widths = [in_channels, *(variant.channels >> left for left in reversed(range(halvings)))]
    return nn.LayerList([Halving(before, after, norm) for before, after in zip(widths, widths[1:])])


def _checked_indices(indices: Sequence[int] | None, depth: int, count: int | None) -> tuple[int, ...]:
    """`indices`, by default the published ones of this depth, which must rise and, if `count` is given, be so many."""
    if indices is None:
        return OUT_INDICES.get(depth) or tuple((part + 1) * depth // len(STRIDES) - 1 for part in range(len(STRIDES)))
    valid = all(isinstance(index, int) and 0 <= index < depth for index in indices)
    if not valid or not indices or list(indices) != sorted(set(indices)) or count not in (None, len(indices)):
        many = 'whole numbers' if count is None else f'{count} whole numbers'
        raise ValueError(f'out_indices must be {many} that rise, from 0 to {depth - 1}, but is {list(indices)}.')
    return tuple(indices)


def _initialise(layer: nn.Layer) -> None:
    """Linear maps normal of deviation 0.02 cut at two, without bias; convolutions uniform by fan-in, bias included."""
    if isinstance(layer, nn.Linear):
        nn.initializer.TruncatedNormal(std=0.02)(layer.weight)
    elif isinstance(layer, (nn.Conv2D, nn.Conv2DTranspose)):
        bound = math.prod(layer.weight.shape[1:])**-0.5
        for parameter in (layer.weight, layer.bias):
            if parameter is not None:
                nn.initializer.Uniform(-bound, bound)(parameter)


class XCiTClassifier(nn.Layer):
    """XCiT with the classifier of the released ImageNet weights: two blocks of class attention, norm and linear map.

    Args:
        num_classes: of the logits, at least 1.

    The others as of the backbone; `pretrained` is the whole classifier.

    Shapes: [N, in_channels, H, W], H and W at least 32, to logits [N, num_classes].
    """

    def __init__(self, variant: Variant, *, num_classes: int, pretrained: str | None = None,
                 pretrained_allow: Sequence[str] = (), **backbone):
        super().__init__()
        channels = variant.channels
        self.backbone = XCiT(variant, pyramid=False, out_indices=[variant.depth - 1], **backbone)
        self.cls_token = self.create_parameter(
            [1, 1, channels], default_initializer=nn.initializer.TruncatedNormal(std=0.02))
        self.class_blocks = nn.LayerList([
            ClassAttentionBlock(channels, variant.heads, ratio=MLP_RATIO, scale=variant.scale,
                                tokens_norm=variant.tokens_norm, norm_epsilon=NORM_EPSILON)
            for _ in range(CLASS_BLOCKS)])
        self.norm = nn.LayerNorm(channels, epsilon=NORM_EPSILON)
        self.head = nn.Linear(channels, num_classes)
        for part in (self.class_blocks, self.head):
            part.apply(_initialise)
        if pretrained is not None:
            load_pretrained(self, pretrained, allow=pretrained_allow)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        patches = to_channels_last(self.backbone(x)[-1])
        patches = patches.reshape([0, -1, patches.shape[-1]])  # [N, HW, C]
        x = paddle.concat([self.cls_token.expand([batch_size(x), -1, -1]), patches], axis=1)
        for block in self.class_blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))


def _register(name: str, variant: Variant) -> None:
    def backbone(in_channels: int = 3, out_indices: Sequence[int] | None = None, drop_rate: float = 0.,
                 drop_path_rate: float = 0., frozen_bn: bool = False, pretrained: str | None = None,
                 pretrained_allow: Sequence[str] = ()) -> XCiT:
        return XCiT(variant, in_channels=in_channels, out_indices=out_indices, drop_rate=drop_rate,
                    drop_path_rate=drop_path_rate, frozen_bn=frozen_bn, pretrained=pretrained,
                    pretrained_allow=pretrained_allow)

    backbone.__name__ = backbone.__qualname__ = name
    backbone.__doc__ = f"""{name.replace('_', '-')}: four maps of strides 4, 8, 16, 32 and {variant.channels} channels.

    Args:
        in_channels: channels of the images, at least 1; the first convolution of pretrained weights is adapted.
        out_indices: the four blocks whose tokens become the maps, rising, from 0; by default
            {list(OUT_INDICES[variant.depth])}. Blocks behind the last are neither run nor trained.
        drop_rate: dropout behind positions, attention and in the feed-forward layers, in [0, 1).
        drop_path_rate: drop path of every block, in [0, 1).
        frozen_bn: batch norms use their running statistics in training too, and leave them as they are; for batches
            of a few images.
        pretrained: path, address or `timm/` name of weights in any of the released formats, or of our own.
        pretrained_allow: patterns of weights that may be missing or left over.
    """
    register('backbone')(backbone)
    register_classifier(name, functools.partial(XCiTClassifier, variant))


for _name, _variant in VARIANTS.items():
    _register(_name, _variant)
