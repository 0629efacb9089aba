"""Spatial sizes that stay symbolic in an export and cost nothing in dygraph."""
from __future__ import annotations

import paddle
import paddle.nn.functional as F

__all__ = ['resize', 'spatial_size']


def spatial_size(x: paddle.Tensor):
    """Height and width of `x` [N, C, H, W].

    Returns two Python integers in dygraph, and an int tensor of shape [2] while a program is traced, so that the
    exported program computes it from its input.
    """
    # NOTE: paddle.shape is not used in dygraph because reading it back from a GPU would stop the stream.
    return x.shape[2:] if paddle.in_dynamic_mode() else paddle.shape(x)[2:]


def resize(x: paddle.Tensor, size) -> paddle.Tensor:
    """`x` [N, C, h, w] resized to `size` (H, W) bilinearly with half-pixel centres (align_corners=False)."""
    return F.interpolate(x, size=size, mode='bilinear', align_corners=False)
