"""The feed-forward layer of transformers."""
from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

__all__ = ['FeedForward']


class FeedForward(nn.Layer):
    """Two linear maps with GELU between, over the last axis.

    Args:
        channels: C.
        ratio: hidden channels over C.
        drop_rate: dropout behind each of the two, in [0, 1).

    Shapes: [..., C] to the same.
    """

    def __init__(self, channels: int, ratio: int, *, drop_rate: float = 0.):
        super().__init__()
        self.fc1 = nn.Linear(channels, ratio * channels)
        self.fc2 = nn.Linear(ratio * channels, channels)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))
