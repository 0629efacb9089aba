"""The projector of Visual Transformers (arXiv 2006.03677): tokens back to pixels.

    X' = X + softmax over L of (X W_Q)(T W_K)ᵀ (T W_V)

What the paper leaves open, and what is chosen here: one head, as written; W_Q is C×C in groups, because it meets every
position, W_K and W_V, which meet L tokens, are dense; the scores are divided by √C; there are no biases and no norms.

Letters: N batch, C channels and H×W size of the map, L tokens, T token channels.
"""
from __future__ import annotations

import paddle
from paddle import nn

from paddleseg_ext.layers.drop_path import DropPath
from paddleseg_ext.layers.normalisation import softmax
from paddleseg_ext.layers.projections import map_projection, token_projection
from paddleseg_ext.layers.sizes import spatial_size

__all__ = ['Projector']


class Projector(nn.Layer):
    """Every position takes what it asks for from the tokens, beside a shortcut.

    Args:
        channels: C.
        token_channels: T.
        groups: of the query.
        drop_path_rate: of what is taken from the tokens, in [0, 1).

    Shapes: map [N, C, H, W] and tokens [N, T, L] to [N, C, H, W].
    """

    def __init__(self, channels: int, token_channels: int, *, groups: int = 1, drop_path_rate: float = 0.):
        super().__init__()
        self.scale = channels**-0.5
        self.query = map_projection(channels, channels, groups=groups)
        self.key = token_projection(token_channels, channels)
        self.value = token_projection(token_channels, channels)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: paddle.Tensor, tokens: paddle.Tensor) -> paddle.Tensor:
        height, width = spatial_size(x)
        taken = paddle.matmul(self.value(tokens), self.attention(x, tokens))  # [N, C, HW]
        return x + self.drop_path(taken.reshape([0, x.shape[1], height, width]))

    def attention(self, x: paddle.Tensor, tokens: paddle.Tensor) -> paddle.Tensor:
        """The shares [N, L, HW] that each position takes of the tokens; they sum to 1 over the tokens."""
        scores = paddle.matmul(self.key(tokens) * self.scale, self.query(x).flatten(2), transpose_x=True)
        return softmax(scores, axis=1)
