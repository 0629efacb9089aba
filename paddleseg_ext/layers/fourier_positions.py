"""Fourier position encoding (XCiT, arXiv 2106.09681): sines and cosines of the place in the map, projected.

Letters: H×W size of the map, C channels, K waves along each side.
"""
from __future__ import annotations

import functools
import math

import paddle
from paddle import nn

__all__ = ['FourierPositions']


class FourierPositions(nn.Layer):
    """What is added to every map of a size to tell its cells apart; no batch takes part in it.

    Row r of H (from 1) has the angle 2π·r/(H + 1e-6), columns likewise. Wave k is the sine (k even) or the cosine
    (k odd) of the angle over temperature^(2⌊k/2⌋/K), in float32. A 1×1 convolution projects the K waves of the row and
    the K of the column to C channels; as it is linear, the two are projected apart and added, so that only the sum is
    as large as the map.

    Args:
        channels: C.
        waves: K, even.
        temperature: ratio of the longest to about the shortest wave.

    Shapes: a size (H, W), integers or in a traced program scalar tensors, to [H, W, C] of the type of the weights.
    """

    def __init__(self, channels: int, *, waves: int = 32, temperature: float = 10000.):
        super().__init__()
        self.waves = waves
        self.temperature = temperature
        self.proj = nn.Conv2D(2 * waves, channels, 1)

    def forward(self, size) -> paddle.Tensor:
        height, width = size
        weight = self.proj.weight.flatten(1)  # [C, 2K]
        down = paddle.matmul(self._side(height), weight[:, :self.waves], transpose_y=True)  # [H, C]
        across = paddle.matmul(self._side(width), weight[:, self.waves:], transpose_y=True) + self.proj.bias  # [W, C]
        return down.unsqueeze(1) + across.unsqueeze(0)

    def _side(self, length) -> paddle.Tensor:
        """The waves along a side, [length, K]."""
        compute = _kept_waves if paddle.in_dynamic_mode() else _waves
        return compute(length, self.waves, self.temperature).astype(self.proj.weight.dtype)


def _waves(length, count: int, temperature: float) -> paddle.Tensor:
    """float32 [length, count]."""
    places = paddle.arange(1, length + 1).astype('float32')
    angles = places / (places[-1] + 1e-6) * (2. * math.pi)
    waves = range(count)
    rates = paddle.to_tensor([temperature**(-2 * (wave // 2) / count) for wave in waves], dtype='float32')
    shifts = paddle.to_tensor([wave % 2 * math.pi / 2. for wave in waves], dtype='float32')
    # NOTE: cosines are shifted sines, and rates are multiplied, because with oneDNN Paddle 3.2.2 computes the sine and
    # the cosine of one tensor wrongly, and divides the wrong way round where the divisor is the larger tensor.
    return paddle.sin(angles.unsqueeze(1) * rates + shifts)


def _kept_waves(length: int, count: int, temperature: float) -> paddle.Tensor:
    return _waves_on(paddle.device.get_device(), length, count, temperature)


# NOTE: kept in dygraph only, in float32 and for each device, because a tensor of another device would not do and one of
# a traced program is no value. Few lengths occur, and 256 of up to 1000 cells are 32 MB.
@functools.lru_cache(maxsize=256)
def _waves_on(device: str, length: int, count: int, temperature: float) -> paddle.Tensor:
    with paddle.no_grad(), paddle.amp.auto_cast(enable=False):
        return _waves(length, count, temperature)
