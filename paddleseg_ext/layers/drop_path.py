"""Stochastic depth: a residual branch dropped for whole samples (arXiv 1603.09382)."""
from __future__ import annotations

import paddle
from paddle import nn

__all__ = ['DropPath']


class DropPath(nn.Layer):
    """Zeroes a residual branch for each sample with probability `rate` in training, and rescales the others.

    Args:
        rate: probability in [0, 1) that a sample loses the branch. The identity in evaluation and at rate 0.

    Raises:
        ValueError: `rate` is outside [0, 1).
    """

    def __init__(self, rate: float = 0.):
        super().__init__()
        if not 0. <= rate < 1.:
            raise ValueError(f'drop path rate must lie in [0, 1), but is {rate}.')
        self.rate = rate

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if not self.training or self.rate == 0.:
            return x
        keep = 1. - self.rate
        drawn = paddle.rand([x.shape[0]] + [1] * (x.ndim - 1), dtype='float32')
        mask = (drawn < keep).astype(x.dtype)
        return x * (mask / keep)

    def extra_repr(self) -> str:
        return f'rate={self.rate}'
