"""Adaptive pooling that is exact on any map, has a safe gradient and converts to ONNX with dynamic sizes.

Paddle's own `adaptive_max_pool2d` writes out of bounds in its gradient when the map holds a NaN, and its ONNX
conversion aborts on dynamic sizes or, where cells are uneven, is silently wrong. Cell i of n over a side of length L
covers ⌊i·L/n⌋ to ⌈(i+1)·L/n⌉ - 1. A maximum over a rectangle is a maximum over rows of maxima over columns, so each
side is pooled on its own: gather the positions of every cell, padded to equal length by repeating the cell's last
position (which changes no maximum, and counts nothing in a mean), and reduce.
"""
from __future__ import annotations

import paddle

from paddleseg_ext.layers.normalisation import to_full_precision
from paddleseg_ext.layers.sizes import spatial_size

__all__ = ['adaptive_average_pool2d', 'adaptive_max_pool2d']


def adaptive_max_pool2d(x: paddle.Tensor, cells: int) -> paddle.Tensor:
    """Maxima of a `cells` × `cells` grid over a map.

    Args:
        x: [N, C, H, W], any H, W ≥ 1; cells overlap where they do not divide the side, and repeat positions where the
            map is smaller than the grid.
        cells: n, cells along each side, at least 1.

    Returns:
        [N, C, n, n], equal to `paddle.nn.functional.adaptive_max_pool2d(x, n)`. Where positions tie, the first of
        them in reading order gets the gradient, as with Paddle's.
    """
    if cells < 1:
        raise ValueError(f'adaptive max pooling needs at least one cell a side, but cells is {cells}.')
    height, width = spatial_size(x)
    pool_side = _pick_side if paddle.in_dynamic_mode() else _reduce_side
    # NOTE: columns first, because then the first of tied positions in reading order wins, as with Paddle's.
    x = pool_side(x, width, cells, axis=3)
    return pool_side(x, height, cells, axis=2)


def adaptive_average_pool2d(x: paddle.Tensor, cells: int) -> paddle.Tensor:
    """Means of a `cells` × `cells` grid over a map.

    Args:
        x: [N, C, H, W], any H, W ≥ 1; cells overlap where they do not divide the side, and repeat positions where the
            map is smaller than the grid.
        cells: n, cells along each side, at least 1.

    Returns:
        [N, C, n, n] of the type of `x`, equal to `paddle.nn.functional.adaptive_avg_pool2d(x, n)` up to rounding;
        computed in float32 or better.
    """
    if cells < 1:
        raise ValueError(f'adaptive average pooling needs at least one cell a side, but cells is {cells}.')
    height, width = spatial_size(x)
    means = _mean_side(to_full_precision(x), width, cells, axis=3)
    return _mean_side(means, height, cells, axis=2).astype(x.dtype)


def _cells(length, cells: int):
    """First positions and ends of all cells, int64 [n, 1], and k, at least the longest cell's length.

    `length` is an int or a traced scalar.
    """
    index = paddle.arange(cells, dtype='int64').unsqueeze(1)
    return index * length // cells, ((index + 1) * length + (cells - 1)) // cells, (length + cells - 1) // cells + 1


def _cell_positions(length, cells: int):
    """Positions of all cells, int64 [n, k]; a shorter cell repeats its last one."""
    start, end, longest = _cells(length, cells)
    return paddle.minimum(start + paddle.arange(longest, dtype='int64').unsqueeze(0), end - 1)


def _windows(x: paddle.Tensor, positions: paddle.Tensor, cells: int, axis: int) -> paddle.Tensor:
    """[N, C, H, W] to [N, C, n, k, W] for axis 2, to [N, C, H, n, k] for axis 3."""
    windows = paddle.gather(x, positions.reshape([-1]), axis=axis)
    shape = [0, 0, cells, -1, spatial_size(x)[1]] if axis == 2 else [0, 0, 0, cells, -1]
    return windows.reshape(shape)


def _reduce_side(x: paddle.Tensor, length, cells: int, *, axis: int) -> paddle.Tensor:
    """For a traced program: gather and reduce, operators that every runtime has."""
    return _windows(x, _cell_positions(length, cells), cells, axis).max(axis=axis + 1)


def _pick_side(x: paddle.Tensor, length: int, cells: int, *, axis: int) -> paddle.Tensor:
    """For dygraph: find each cell's position without recording it, then pick it.

    NOTE: not the reduction above, because the gradient of max goes to every repeated position of a cell, and that of
    amax, which shares it, takes longer here than the block's attention.
    """
    positions = _cell_positions(length, cells)  # [n, k]
    with paddle.no_grad():
        best = _windows(x, positions, cells, axis).argmax(axis=axis + 1, keepdim=True)
        by_cell = positions.reshape([1, 1, cells, -1, 1] if axis == 2 else [1, 1, 1, cells, -1])
        where = paddle.take_along_axis(by_cell, best, axis=axis + 1).squeeze(axis + 1)
    return paddle.take_along_axis(x, where, axis=axis, broadcast=False)


def _mean_side(x: paddle.Tensor, length, cells: int, *, axis: int) -> paddle.Tensor:
    # NOTE: not products with matrices of weights, because oneDNN reads memory that nobody wrote for the second.
    start, end, longest = _cells(length, cells)
    counts = start + paddle.arange(longest, dtype='int64').unsqueeze(0) < end  # [n, k]: no repeated position
    weights = counts.astype(x.dtype) / (end - start).astype(x.dtype)
    weights = weights.unsqueeze(2) if axis == 2 else weights
    return (_windows(x, _cell_positions(length, cells), cells, axis) * weights).sum(axis=axis + 1)
