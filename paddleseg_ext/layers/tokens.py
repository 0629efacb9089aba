"""Between maps, tokens and windows: pairs of functions that undo each other, at any size and in an export.

Letters: N batch, H×W size of a map, C channels, s side of a window, h×w windows (⌈H/s⌉×⌈W/s⌉).
"""
from __future__ import annotations

import paddle
import paddle.nn.functional as F

__all__ = ['fits_windows', 'map_to_windows', 'to_channels_first', 'to_channels_last', 'window_padding',
           'windows_to_map']


def to_channels_last(x: paddle.Tensor) -> paddle.Tensor:
    """[N, C, H, W] to [N, H, W, C]."""
    return x.transpose([0, 2, 3, 1])


def to_channels_first(x: paddle.Tensor) -> paddle.Tensor:
    """[N, H, W, C] to [N, C, H, W]."""
    return x.transpose([0, 3, 1, 2])


def map_to_windows(x: paddle.Tensor, size, side: int) -> paddle.Tensor:
    """Cut a map into windows, padded with zeros at the right and at the bottom to whole windows.

    Args:
        x: [N, H, W, C].
        size: H and W, integers or, in a traced program, scalar tensors.
        side: s, at least 1.

    Returns:
        [N, h·w, s·s, C].
    """
    rows, columns = _windows(size, side)
    x = x if fits_windows(size, side) else _pad(x, size, side)
    channels = x.shape[-1]
    # A row of windows is s rows of w pieces, each of s cells: turning that into w windows of s pieces swaps two axes.
    x = x.reshape([-1, side, columns, side * channels]).transpose([0, 2, 1, 3])  # [N·h, w, s, s·C]
    return x.reshape([-1, rows * columns, side * side, channels])


def windows_to_map(x: paddle.Tensor, size, side: int) -> paddle.Tensor:
    """The inverse of `map_to_windows`: [N, h·w, s·s, C] to [N, H, W, C], without what had been padded."""
    height, width = size
    rows, columns = _windows(size, side)
    channels = x.shape[-1]
    x = x.reshape([-1, columns, side, side * channels]).transpose([0, 2, 1, 3])  # [N·h, s, w, s·C]
    x = x.reshape([-1, rows * side, columns * side, channels])
    return x if fits_windows(size, side) else x[:, :height, :width]


def window_padding(size, side: int) -> paddle.Tensor:
    """Which cells of `map_to_windows` are padding: 1.0 there and 0.0 elsewhere, float32 [h·w, s·s]."""
    rows, columns = _windows(size, side)
    outside = _outside(size, side).reshape([-1, side, columns, side]).transpose([0, 2, 1, 3])
    return outside.reshape([-1, side * side])


def _outside(size, side: int) -> paddle.Tensor:
    """1.0 where a map filled up to whole windows is none, float32 [h·s, w·s]."""
    height, width = size
    rows, columns = _windows(size, side)
    below = (paddle.arange(rows * side) >= height).astype('float32').unsqueeze(1)
    beside = (paddle.arange(columns * side) >= width).astype('float32').unsqueeze(0)
    return paddle.maximum(below, beside)


def _windows(size, side: int):
    """How many windows cover height and width."""
    height, width = size
    return (height + side - 1) // side, (width + side - 1) // side


def fits_windows(size, side: int) -> bool:
    """Whether the map is known to need no padding, which in a traced program it never is."""
    return paddle.in_dynamic_mode() and size[0] % side == 0 and size[1] % side == 0


def _pad(x: paddle.Tensor, size, side: int) -> paddle.Tensor:
    """[N, H, W, C] to [N, h·s, w·s, C] with zeros below and at the right."""
    pad = _pad_known if paddle.in_dynamic_mode() else _pad_traced
    return pad(x, size, _windows(size, side), side)


def _pad_known(x: paddle.Tensor, size, windows, side: int) -> paddle.Tensor:
    below, right = (count * side - length for count, length in zip(windows, size))
    return F.pad(x, [0, right, 0, below], data_format='NHWC')


def _pad_traced(x: paddle.Tensor, size, windows, side: int) -> paddle.Tensor:
    # NOTE: rows and columns are repeated and zeroed, because oneDNN's padding in Paddle 3.2.2 cannot take a computed
    # amount, writes out of bounds with eight numbers, and confuses the channels of what follows it with four.
    for axis, (count, length) in enumerate(zip(windows, size), 1):
        # Both of one type, because shapes are int32 to Paddle 2.6 and arange is int64.
        last = (length - 1).astype('int64')
        x = paddle.gather(x, paddle.minimum(paddle.arange(count * side, dtype='int64'), last), axis=axis)
    return x * (1. - _outside(size, side)).astype(x.dtype).unsqueeze([0, 3])
