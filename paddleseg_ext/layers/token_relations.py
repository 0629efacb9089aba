"""What Visual Transformers (arXiv 2006.03677) do between tokens: the transformer, or what its ablation puts there.

    transformer   T' = T + softmax over L of (T K)(T Q)ᵀ T,  T'' = T' + σ(T' F1) F2
    convolution   T'' = T + σ(T * F1) * F2, 1-d convolutions over three neighbours in the list of tokens
    none          T'' = T

What the paper leaves open, and what is chosen here: one head, as written; K and Q have T/2 columns each and groups, F1
and F2 are square and dense; the scores are divided by the root of T/2, as attention does; σ is ReLU; there are no
biases and no norms inside; the kernel of the convolution is 3, its groups those of K and Q.

`TokenNorm` is an addition: whoever relates tokens puts it behind. Without it they double from module to module, because
the transformer adds to them a mean of themselves; of three fresh modules of 1024 channels, the scores of the third
projector then have a deviation of 14 to 60 in six draws instead of 1 to 2.

Letters: N batch, L tokens, T token channels.
"""
from __future__ import annotations

from collections.abc import Callable

import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.layers.drop_path import DropPath
from paddleseg_ext.layers.normalisation import softmax
from paddleseg_ext.layers.projections import token_projection

__all__ = ['RELATIONS', 'TokenConvolution', 'TokenNorm', 'TokenTransformer']


class TokenTransformer(nn.Layer):
    """Self-attention of one head over the tokens, then two matrices with ReLU between, each beside a shortcut.

    Args:
        channels: T, even.
        groups: of key and query.
        drop_path_rate: of both branches, in [0, 1).

    Shapes: [N, T, L] to the same.
    """

    def __init__(self, channels: int, *, groups: int = 1, drop_path_rate: float = 0.):
        super().__init__()
        self.scale = (channels // 2)**-0.5
        self.key = token_projection(channels, channels // 2, groups=groups)
        self.query = token_projection(channels, channels // 2, groups=groups)
        self.fc1 = token_projection(channels, channels)
        self.fc2 = token_projection(channels, channels)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, tokens: paddle.Tensor) -> paddle.Tensor:
        gathered = paddle.matmul(tokens, self.attention(tokens), transpose_y=True)
        tokens = tokens + self.drop_path(gathered)
        return tokens + self.drop_path(self.fc2(F.relu(self.fc1(tokens))))

    def attention(self, tokens: paddle.Tensor) -> paddle.Tensor:
        """The shares [N, L, L] that each token (row) takes of all of them (columns); they sum to 1."""
        scores = paddle.matmul(self.key(tokens) * self.scale, self.query(tokens), transpose_x=True)
        return softmax(scores, axis=-1)


class TokenConvolution(nn.Layer):
    """The ablation: two 1-d convolutions over neighbouring tokens with ReLU between, beside a shortcut.

    Args:
        channels: T.
        groups: of both convolutions.
        drop_path_rate: of the branch, in [0, 1).

    Shapes: [N, T, L] to the same.
    """

    def __init__(self, channels: int, *, groups: int = 1, drop_path_rate: float = 0.):
        super().__init__()
        initial = nn.initializer.Normal(std=(3 * channels // groups)**-0.5)
        self.conv1, self.conv2 = (nn.Conv1D(channels, channels, 3, padding=1, groups=groups, weight_attr=initial,
                                            bias_attr=False) for _ in range(2))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, tokens: paddle.Tensor) -> paddle.Tensor:
        return tokens + self.drop_path(self.conv2(F.relu(self.conv1(tokens))))


class TokenNorm(nn.Layer):
    """Layer norm of every token over its T channels, with a scale and without a shift. [N, T, L] to the same."""

    # NOTE: no shift, because in VT-FPN it would get no gradient (the softmax of the projectors and the batch norm
    # behind them take it out), and VT-ResNet is to be alike; and a factor, not the scale of Paddle's layer norm,
    # because oneDNN in Paddle 3.2.2 forgets that where there is no shift.

    def __init__(self, channels: int):
        super().__init__()
        self.weight = self.create_parameter([channels], default_initializer=nn.initializer.Constant(1.))

    def forward(self, tokens: paddle.Tensor) -> paddle.Tensor:
        rows = F.layer_norm(tokens.transpose([0, 2, 1]), self.weight.shape, epsilon=1e-6)  # [N, L, T]
        return (rows * self.weight).transpose([0, 2, 1])


def _none(channels: int, *, groups: int = 1, drop_path_rate: float = 0.) -> nn.Layer:
    return nn.Identity()


# By the name in YAML: makes the layer from T, `groups` and `drop_path_rate`.
RELATIONS: dict[str, Callable[..., nn.Layer]] = {'transformer': TokenTransformer, 'convolution': TokenConvolution,
                                                 'none': _none}
