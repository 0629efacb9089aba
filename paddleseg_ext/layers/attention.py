"""The attentions of RTFormer (arXiv 2210.07124): external, multi-head external, GPU-friendly, cross-resolution.

Letters: N batch, C channels, H×W positions of the map, M memory slots, G groups, n cells along a side of the key map.
"""
from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.layers.normalisation import BatchNorm2D, softmax, to_full_precision
from paddleseg_ext.layers.pooling import adaptive_max_pool2d
from paddleseg_ext.layers.sizes import spatial_size

__all__ = ['EXTERNAL_ATTENTIONS', 'CellKeyValue', 'CrossResolutionAttention', 'ExternalAttention',
           'grouped_double_normalisation']

# What tells the three external attentions apart: how many groups the two 1×1 convolutions have and over how many
# groups of slots the second normalisation runs; `heads` stands for the number of heads.
#         convolution groups, normalisation groups
EXTERNAL_ATTENTIONS = {
    'ea':   ('one',           'one'),
    'mhea': ('heads',         'heads'),
    'gfa':  ('one',           'heads'),
}


def grouped_double_normalisation(scores: paddle.Tensor, groups: int) -> paddle.Tensor:
    """Softmax over positions, then division by the sum over the slots of a group (+ 1e-6).

    Args:
        scores: [N, M, H, W], affinity of every position with every slot.
        groups: G, divides M. 1 gives the double normalisation of external attention.

    Returns:
        [N, M, H, W] of the type of `scores`; computed in float32 or better, because the softmax over thousands of
        positions and the 1e-6 both underflow in float16.
    """
    slots = scores.shape[1]
    height, width = spatial_size(scores)
    weights = to_full_precision(scores).reshape([0, groups, slots // groups, -1])  # [N, G, M/G, H·W]
    weights = F.softmax(weights, axis=3)
    weights = weights / (weights.sum(axis=2, keepdim=True) + 1e-6)
    return weights.reshape([0, slots, height, width]).astype(scores.dtype)


class ExternalAttention(nn.Layer):
    """Attention to learned memory: batch norm, `K·X`, double normalisation, `V·(…)`, all without splitting heads.

    'ea' is external attention (arXiv 2105.02358); 'mhea' runs it on `heads` channel splits, each with its own slots;
    'gfa', the GPU-friendly attention of RTFormer, keeps the convolutions dense and only normalises by groups, which
    is what makes it fast on GPUs.

    Args:
        in_channels, out_channels: channels before and after. Where they differ the map is also halved (stride 2).
        slots: M, memory slots over all heads.
        heads: G, groups of slots.
        kind: a key of EXTERNAL_ATTENTIONS.
        bn_momentum: share of the running statistics that a step keeps.

    Shapes: [N, in_channels, H, W] to [N, out_channels, H, W], or [N, out_channels, ⌈H/2⌉, ⌈W/2⌉] where the channels
    differ.
    """

    def __init__(self, in_channels: int, out_channels: int, *, slots: int, heads: int = 8, kind: str = 'gfa',
                 bn_momentum: float = 0.9):
        super().__init__()
        if kind not in EXTERNAL_ATTENTIONS:
            raise ValueError(f'attention {kind!r} is unknown; choose one of {", ".join(EXTERNAL_ATTENTIONS)}.')
        for name, channels in (('in_channels', in_channels), ('out_channels', out_channels), ('slots', slots)):
            if channels % heads:
                raise ValueError(f'{name} ({channels}) must be a multiple of the number of heads ({heads}).')
        groups = {'one': 1, 'heads': heads}
        self.conv_groups, self.norm_groups = (groups[size] for size in EXTERNAL_ATTENTIONS[kind])
        self.stride = 1 if in_channels == out_channels else 2
        self.norm = BatchNorm2D(in_channels, momentum=bn_momentum)
        small = nn.initializer.Normal(std=0.001)
        self.k = self.create_parameter([slots, in_channels // self.conv_groups, 1, 1], default_initializer=small)
        self.v = self.create_parameter([out_channels, slots // self.conv_groups, 1, 1], default_initializer=small)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        scores = F.conv2d(self.norm(x), self.k, stride=self.stride, groups=self.conv_groups)  # [N, M, H, W]
        weights = grouped_double_normalisation(scores, self.norm_groups)
        return F.conv2d(weights, self.v, groups=self.conv_groups)


class CrossResolutionAttention(nn.Layer):
    """Queries from the high-resolution map, keys and values from n² cells of the low-resolution map; one head.

    Args:
        channels: C of the high-resolution map.

    Shapes: `x` [N, C, H, W] and `key_value` [N, 2C, n, n] (keys first) to [N, C, H, W]. Plain batched matrix
    products, so any batch and size exports. The scale is (n²)^-½, as published.
    """

    def __init__(self, channels: int, *, bn_momentum: float = 0.9):
        super().__init__()
        self.channels = channels
        self.norm = BatchNorm2D(channels, momentum=bn_momentum)

    def forward(self, x: paddle.Tensor, key_value: paddle.Tensor) -> paddle.Tensor:
        height, width = spatial_size(x)
        keys, values = paddle.split(key_value.flatten(2), 2, axis=1)  # [N, C, n²] each
        scale = keys.shape[2]**-0.5
        query = self.norm(x).flatten(2)  # [N, C, H·W]
        scores = paddle.matmul(keys, query, transpose_x=True) * scale  # [N, n², H·W]
        mixed = paddle.matmul(values, softmax(scores, axis=1))  # [N, C, H·W]
        return mixed.reshape([0, self.channels, height, width])


class CellKeyValue(nn.Sequential):
    """Keys and values for CrossResolutionAttention: batch norm, adaptive max pool to n×n cells, 1×1 convolution.

    Shapes: [N, in_channels, h, w] to [N, 2·channels, n, n].
    """

    def __init__(self, in_channels: int, channels: int, *, cells: int, bn_momentum: float = 0.9):
        super().__init__(BatchNorm2D(in_channels, momentum=bn_momentum), _AdaptiveMaxPool(cells),
                         nn.Conv2D(in_channels, 2 * channels, 1, bias_attr=False,
                                   weight_attr=nn.initializer.TruncatedNormal(std=0.02)))


class _AdaptiveMaxPool(nn.Layer):
    def __init__(self, cells: int):
        super().__init__()
        self.cells = cells

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return adaptive_max_pool2d(x, self.cells)
