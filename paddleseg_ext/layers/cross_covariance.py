"""Cross-covariance attention (XCA, arXiv 2106.09681): channels attend channels, so the cost is linear in tokens.

Letters: N batch, L tokens, C channels, h heads, d = C/h.
"""
from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.layers.normalisation import softmax, to_full_precision

__all__ = ['CrossCovarianceAttention']

# The square of the least length by which a vector is divided.
LEAST_SQUARE = 1e-24


class CrossCovarianceAttention(nn.Layer):
    """softmax(q̂·k̂ᵀ · temperature)·v with q, k and v of [d, L] for each head, and q̂ and k̂ of length 1 along the tokens.

    Args:
        channels: C, a multiple of `heads`.
        heads: h, each with a learned temperature.
        drop_rate: dropout behind the projection, in [0, 1).

    Shapes: [N, L, C] to the same. Beside tokens and weights, only [N, h, d, d], [N, 2C, L] and [N, C, C] arise.
    """

    def __init__(self, channels: int, heads: int, *, drop_rate: float = 0.):
        super().__init__()
        if channels % heads:
            raise ValueError(f'channels ({channels}) must be a multiple of the number of heads ({heads}).')
        self.heads = heads
        self.temperature = self.create_parameter([heads, 1, 1], default_initializer=nn.initializer.Constant(1.))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        channels = x.shape[-1]
        # NOTE: the projection is applied to the attention and not to the tokens, because then the values need no
        # transposition, before or after, and the product with the tokens is one, as large as the projection's.
        projection = self.proj.weight.reshape([1, self.heads, channels // self.heads, channels])
        mixing = paddle.matmul(self.attention(x), projection, transpose_x=True)  # [N, h, d, C]
        return self.drop(paddle.matmul(self.value(x), mixing.reshape([-1, channels, channels])) + self.proj.bias)

    def value(self, x: paddle.Tensor) -> paddle.Tensor:
        """v of every token, [N, L, C] to the same."""
        channels = x.shape[-1]
        return F.linear(x, self.qkv.weight[:, 2 * channels:], self.qkv.bias[2 * channels:])

    def attention(self, x: paddle.Tensor) -> paddle.Tensor:
        """The weights [N, h, d, d] with which every channel (row) takes the channels of its head (column)."""
        channels = x.shape[-1]
        both = F.linear(x, self.qkv.weight[:, :2 * channels], self.qkv.bias[:2 * channels])  # [N, L, 2C]
        both = both.reshape([0, -1, 2 * self.heads, channels // self.heads]).transpose([0, 2, 3, 1])
        query, key = paddle.split(both, 2, axis=1)  # [N, h, d, L]
        # NOTE: the key is divided before the product, so that it cannot leave the range of float16 (it is at most the
        # length of the query), and the query after it, where it costs nothing.
        key = (to_full_precision(key) * _inverse_length(key)).astype(key.dtype)
        logits = to_full_precision(paddle.matmul(query, key, transpose_y=True)) * _inverse_length(query)
        return softmax(logits * self.temperature, axis=-1).astype(x.dtype)


def _inverse_length(x: paddle.Tensor) -> paddle.Tensor:
    """1/|x| along the last axis, [..., 1], in float32 or better."""
    squares = to_full_precision(x).square().sum(axis=-1, keepdim=True)
    return paddle.rsqrt(paddle.clip(squares, min=LEAST_SQUARE))
