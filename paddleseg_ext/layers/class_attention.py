"""Class attention (CaiT, arXiv 2103.17239): a class token gathers what a classifier needs from the other tokens.

Letters: N batch, L tokens with the class token first, C channels, h heads, d = C/h.
"""
from __future__ import annotations

import paddle
from paddle import nn

from paddleseg_ext.layers.feed_forward import FeedForward
from paddleseg_ext.layers.scaled_attention import scaled_attention

__all__ = ['ClassAttention', 'ClassAttentionBlock']


class ClassAttention(nn.Layer):
    """The class token attends all tokens and itself. [N, L, C] to [N, 1, C]."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels)
        self.k = nn.Linear(channels, channels)
        self.v = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        channels = x.shape[-1]
        query, key, value = (linear(part).reshape([0, -1, self.heads, channels // self.heads])
                             for linear, part in ((self.q, x[:, :1]), (self.k, x), (self.v, x)))  # [N, …, h, d]
        return self.proj(scaled_attention(query, key, value).reshape([0, 1, channels]))


class ClassAttentionBlock(nn.Layer):
    """Class attention and feed-forward layer with LayerScale, as XCiT's classifiers were trained with.

    Args:
        channels, heads: C and h.
        ratio: hidden channels of the feed-forward layer over C.
        scale: first value of LayerScale.
        tokens_norm: the second norm is of all tokens, else of the class token alone.

    Shapes: [N, L, C] to the same.
    """

    def __init__(self, channels: int, heads: int, *, ratio: int, scale: float, tokens_norm: bool,
                 norm_epsilon: float = 1e-6):
        super().__init__()
        self.tokens_norm = tokens_norm
        self.norm1 = nn.LayerNorm(channels, epsilon=norm_epsilon)
        self.attn = ClassAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels, epsilon=norm_epsilon)
        self.mlp = FeedForward(channels, ratio)
        constant = nn.initializer.Constant(scale)
        self.gamma1 = self.create_parameter([channels], default_initializer=constant)
        self.gamma2 = self.create_parameter([channels], default_initializer=constant)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self.norm1(x)
        x = x + self.gamma1 * paddle.concat([self.attn(y), y[:, 1:]], axis=1)
        token, patches = x[:, :1], x[:, 1:]
        token = self.norm2(token)
        patches = self.norm2(patches) if self.tokens_norm else patches
        # NOTE: the other tokens are added to themselves, and the shortcut begins behind the norm, because the released
        # weights were trained so.
        return paddle.concat([token + self.gamma2 * self.mlp(token), patches + patches], axis=1)
