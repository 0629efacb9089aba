"""Spatial sizes that stay symbolic in an export and cost nothing in dygraph."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import paddle
import paddle.nn.functional as F

__all__ = ['add_top_down', 'batch_size', 'require_channels', 'require_size', 'resize', 'spatial_size']


def spatial_size(x: paddle.Tensor, *, axis: int = 2):
    """Height and width of a map whose height is dimension `axis`: 2 for [N, C, H, W], 1 for [N, H, W, C].

    Returns two Python integers in dygraph, and an int tensor of shape [2] while a program is traced, so that the
    exported program computes it from its input.
    """
    return _shape(x)[axis:axis + 2]


def batch_size(x: paddle.Tensor):
    """First dimension of `x`: a Python integer in dygraph, a scalar int tensor while a program is traced."""
    return _shape(x)[0]


def _shape(x: paddle.Tensor):
    # NOTE: paddle.shape is not used in dygraph because reading it back from a GPU would stop the stream.
    return x.shape if paddle.in_dynamic_mode() else paddle.shape(x)


def require_size(x: paddle.Tensor, minimum: int, name: str) -> None:
    """Refuse images [N, C, H, W] with a side below `minimum` pixels; an export carries the limit in deploy.yaml.

    Raises:
        ValueError: a side is too short; the message begins with `name`.
    """
    if paddle.in_dynamic_mode() and min(x.shape[2:]) < minimum:
        raise ValueError(f'{name} needs images of at least {minimum}×{minimum} pixels, but got '
                         f'{x.shape[2]}×{x.shape[3]} (height × width); pad or enlarge them.')


def require_channels(in_channels: int) -> None:
    """Refuse a number of image channels that is none.

    Raises:
        ValueError: it is no whole number of at least 1.
    """
    if not isinstance(in_channels, int) or in_channels < 1:
        raise ValueError(f'in_channels must be a whole number of at least 1, but is {in_channels!r}.')


def resize(x: paddle.Tensor, size) -> paddle.Tensor:
    """`x` [N, C, h, w] resized to `size` (H, W) bilinearly with half-pixel centres (align_corners=False)."""
    return F.interpolate(x, size=size, mode='bilinear', align_corners=False)


def add_top_down(maps: Sequence[paddle.Tensor], enlarge: Callable) -> list[paddle.Tensor]:
    """Add to each map [N, C, hi, wi], finest first, the sum at the next coarser, resized by `enlarge(map, size)`."""
    sums = list(maps)
    for index in range(len(sums) - 1, 0, -1):
        sums[index - 1] = sums[index - 1] + enlarge(sums[index], spatial_size(sums[index - 1]))
    return sums
