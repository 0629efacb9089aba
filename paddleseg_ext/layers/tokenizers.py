"""The tokenizers of Visual Transformers (arXiv 2006.03677): a map becomes a few tokens, each a mean over the image.

    filter-based (static)   A = softmax over HW of X W_A        T = Aᵀ X W_V
    recurrent (dynamic)     A = softmax over HW of X (T W_TA)ᵀ  T = the old tokens merged with Aᵀ X W_V

What the paper leaves open, and what is chosen here:
- W_V is applied to the L means instead of the HW positions, which changes no number and costs next to nothing;
- a recurrent tokenizer divides its scores by √C, as attention does, because products of two computed vectors of C
  channels saturate the softmax otherwise;
- it asks with the first half of the old tokens, drops that half, and puts the new tokens behind the other, so that of
  successive modules each renews the half that the last one kept;
- the position encoding pools A to a grid of `GRID`×`GRID` cells and divides by their mean, so that the size of the
  image does not matter, and takes some of the token channels, so that their number does not change.

Letters: N batch, C channels and H×W size of the map, L tokens, T token channels, P of them for positions.
"""
from __future__ import annotations

import paddle
from paddle import nn

from paddleseg_ext.layers.normalisation import softmax, to_full_precision
from paddleseg_ext.layers.pooling import adaptive_average_pool2d
from paddleseg_ext.layers.projections import map_projection, token_projection
from paddleseg_ext.layers.sizes import spatial_size

__all__ = ['FilterTokenizer', 'RecurrentTokenizer', 'TokenPooling', 'TokenPositions']

GRID = 7
# Token channels of which one holds positions.
SHARE_OF_POSITIONS = 16


class TokenPositions(nn.Layer):
    """Where each token comes from, as channels of it: the attention of every cell of a grid, times learned weights.

    Args:
        channels: P.

    Shapes: attention [N, L, HW] and (H, W) to [N, P, L].
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weights = token_projection(GRID**2, channels)

    def forward(self, attention: paddle.Tensor, size) -> paddle.Tensor:
        height, width = size
        tokens = attention.shape[1]
        maps = to_full_precision(attention).reshape([0, tokens, height, width])
        # NOTE: not flatten, because in a traced program Paddle 2.6 would not know the number of cells then.
        cells = adaptive_average_pool2d(maps, GRID).reshape([0, tokens, GRID**2])
        cells = cells / cells.mean(axis=-1, keepdim=True)
        return self.weights(cells.transpose([0, 2, 1]).astype(attention.dtype))


class TokenPooling(nn.Layer):
    """Tokens from the attention that each pays to the positions of a map: means of the values there, and positions.

    Args:
        channels: C.
        token_channels: T; with `position_encoding` T/16 of them, rounded down to groups but at least one a group, say
            where the token comes from.
        groups: of W_V.
        position_encoding: whether the tokens say where they come from.

    Shapes: map [N, C, H, W] and attention [N, L, HW] to [N, T, L].
    """

    def __init__(self, channels: int, token_channels: int, *, groups: int, position_encoding: bool):
        super().__init__()
        of_positions = max(token_channels // SHARE_OF_POSITIONS // groups, 1) * groups if position_encoding else 0
        self.value = token_projection(channels, token_channels - of_positions, groups=groups)
        self.positions = TokenPositions(of_positions) if position_encoding else None

    def forward(self, x: paddle.Tensor, attention: paddle.Tensor) -> paddle.Tensor:
        # NOTE: bmm, not matmul, because oneDNN's matmul in Paddle 3.2.2 reads memory that nobody wrote where the map
        # has a single position; bmm has no kernel of oneDNN.
        means = paddle.bmm(x.flatten(2), attention.transpose([0, 2, 1]))  # [N, C, L]
        tokens = self.value(means)
        if self.positions is not None:
            tokens = paddle.concat([tokens, self.positions(attention, spatial_size(x))], axis=1)
        return tokens


class FilterTokenizer(nn.Layer):
    """Filter-based (static) tokenizer: every token has a learned filter, the same for all images.

    Args:
        channels: C.
        tokens: L.
        token_channels: T.
        groups: of W_V.
        position_encoding: whether the tokens say where they come from.

    Shapes: [N, C, H, W] to [N, T, L].
    """

    def __init__(self, channels: int, tokens: int, token_channels: int, *, groups: int = 1,
                 position_encoding: bool = True):
        super().__init__()
        self.filters = map_projection(channels, tokens)
        self.pooling = TokenPooling(channels, token_channels, groups=groups, position_encoding=position_encoding)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.pooling(x, self.attention(x))

    def attention(self, x: paddle.Tensor) -> paddle.Tensor:
        """The shares [N, L, HW] that each token takes of the positions; they sum to 1."""
        return softmax(self.filters(x).flatten(2), axis=-1)


class RecurrentTokenizer(nn.Layer):
    """Recurrent (dynamic) tokenizer: the first half of the old tokens says what to look for in this image.

    Args:
        channels: C.
        tokens: L, at least 2; ⌊L/2⌋ of them are renewed.
        token_channels: T.
        groups: of W_V.
        position_encoding: whether the new tokens say where they come from.

    Shapes: [N, C, H, W] and tokens [N, T, L] to tokens [N, T, L], the kept ones first.
    """

    def __init__(self, channels: int, tokens: int, token_channels: int, *, groups: int = 1,
                 position_encoding: bool = True):
        super().__init__()
        self.renewed = tokens // 2
        self.scale = channels**-0.5
        self.filters = token_projection(token_channels, channels)
        self.pooling = TokenPooling(channels, token_channels, groups=groups, position_encoding=position_encoding)

    def forward(self, x: paddle.Tensor, tokens: paddle.Tensor) -> paddle.Tensor:
        new = self.pooling(x, self.attention(x, tokens))
        return paddle.concat([tokens[:, :, self.renewed:], new], axis=2)

    def attention(self, x: paddle.Tensor, tokens: paddle.Tensor) -> paddle.Tensor:
        """The shares [N, ⌊L/2⌋, HW] that each new token takes of the positions; they sum to 1."""
        filters = self.filters(tokens[:, :, :self.renewed]) * self.scale  # [N, C, L/2]
        return softmax(paddle.matmul(filters, x.flatten(2), transpose_x=True), axis=-1)
