"""What a model's attention layers attend to, computed anew from the inputs that they had and their own parameters.

The models know nothing of it. `LOOKS` says for each class of layer how to look into it; a new layer adds a row, with a
function that takes the layer, the inputs of its `forward` (batch 1) and the frame of the image.

Letters: h heads, d channels of a head, H×W map of the queries, S keys, M slots, L tokens, P points, w windows of s×s
positions.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from paddleseg_ext.backbones.twins import GlobalAttention, LocalAttention
from paddleseg_ext.engine.evaluate import evaluation_mode
from paddleseg_ext.engine.explain_geometry import Frame, Grid
from paddleseg_ext.layers.attention import CrossResolutionAttention, ExternalAttention, grouped_double_normalisation
from paddleseg_ext.layers.cross_covariance import CrossCovarianceAttention
from paddleseg_ext.layers.projector import Projector
from paddleseg_ext.layers.token_relations import TokenTransformer
from paddleseg_ext.layers.tokenizers import FilterTokenizer, RecurrentTokenizer
from paddleseg_ext.layers.tokens import map_to_windows

__all__ = ['LOOKS', 'Look', 'Row', 'channel_look', 'look_into', 'position_look', 'slot_look', 'token_look']

CHUNK_ELEMENTS = 1 << 22
"""Weights of more elements than this (16 MiB of float32) are averaged over the queries in parts."""
FAVOURITES = 4
"""So many tokens are drawn for a point, those that it takes most from."""


@dataclass(frozen=True)
class Row:
    """One map a head of one thing.

    Attributes:
        title: what it is.
        maps: float32 [h, rows, columns]; with `numbers` as many as those.
        grid: where the cells lie; None for a matrix that is not of the image.
        captions: what to add to the name of each map; empty for nothing.
        point: which of the frame's points it belongs to, None for none.
        even: the share that each would have if attention were even; None where the values are no shares.
        numbers: which heads or tokens the maps are of, where the row chooses; None for all, in order.
    """

    title: str
    maps: np.ndarray
    grid: Grid | None
    captions: tuple[str, ...] = ()
    point: int | None = None
    even: float | None = None
    numbers: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Look:
    """What one layer attends to in one image.

    Attributes:
        shows: one sentence for a reader.
        rows: what to draw.
        arrays: all numbers by name, with the letters of their shapes in `shapes`.
        shapes: what the axes of each array are.
        averages: whether a mean over the heads says something.
        unit: what each map is of, 'head' or 'token'.
        first: number of the first of them.
    """

    shows: str
    rows: tuple[Row, ...]
    arrays: dict[str, np.ndarray]
    shapes: dict[str, str]
    averages: bool
    unit: str = 'head'
    first: int = 0

    @property
    def heads(self) -> int:
        """How many heads or tokens the layer has."""
        return len(self.rows[0].maps)

    @property
    def numbers(self) -> range:
        """Of its heads or tokens."""
        return range(self.first, self.first + self.heads)


def look_into(layer: nn.Layer, inputs: Sequence[paddle.Tensor], frame: Frame) -> Look:
    """What `layer` attends to, in evaluation mode, when it gets `inputs` (batch 1).

    Its class, or one that it derives from, is in LOOKS.
    """
    look = next(LOOKS[kind] for kind in type(layer).__mro__ if kind in LOOKS)
    with paddle.no_grad(), evaluation_mode(layer):
        return look(layer, [each.astype('float32') for each in inputs], frame)


def position_look(weights: Callable[[np.ndarray], np.ndarray], queries: Grid, keys: Grid, frame: Frame, *,
                  shows: str) -> Look:
    """The look of a layer whose positions attend to positions.

    Args:
        weights: gives the weights [h, queries, S] of queries by their indices (reading order); they sum to 1 over S.
        queries, keys: the two maps.
        frame: with the points that are the queries to show.
        shows: the sentence.
    """
    shape = (keys.rows, keys.columns)
    mean = _mean_over_queries(weights, queries.rows * queries.columns, keys.rows * keys.columns)
    mean = mean.reshape(-1, *shape)
    by_point = weights(frame.cells(queries)).reshape(len(mean), len(frame.points), *shape)
    even = 1. / mean[0].size
    rows = [Row('mean over all positions', mean, keys, even=even)]
    rows += [Row(f'seen from {_point(frame, index)}', by_point[:, index], keys, point=index, even=even)
             for index in range(len(frame.points))]
    return Look(shows, tuple(rows), {'mean': mean, 'points': by_point},
                {'mean': 'heads, rows, columns', 'points': 'heads, points, rows, columns'}, averages=True)


def slot_look(weights: np.ndarray, grid: Grid, frame: Frame, *, shows: str) -> Look:
    """The look of a layer whose positions attend to learned slots.

    Args:
        weights: [h, M/h, H, W], shares that sum to 1 over the slots of a head.
        grid: the map of the positions.
        frame: with the points whose favourite slots to show.
        shows: the sentence.
    """
    heads, slots = weights.shape[:2]
    flat = weights.reshape(heads, slots, -1)
    picks = [('the slot of each head that tells positions apart most', flat.std(axis=2).argmax(axis=1), None)]
    preference = flat / np.maximum(flat.mean(axis=2, keepdims=True), 1e-12)
    picks += [(f'the slot of each head that stands out most at {_point(frame, index)}',
               preference[:, :, cell].argmax(axis=1), index) for index, cell in enumerate(frame.cells(grid))]
    rows = tuple(Row(title, weights[np.arange(heads), chosen], grid, tuple(f'slot {slot}' for slot in chosen), point,
                     1. / slots) for title, chosen, point in picks)
    return Look(shows, rows, {'slots': weights}, {'slots': 'heads, slots, rows, columns'}, averages=False)


def channel_look(weights: np.ndarray, strength: np.ndarray, grid: Grid, *, shows: str) -> Look:
    """The look of a layer whose channels attend to channels.

    Args:
        weights: [h, d, d]; a row, the shares that one channel takes of the others of its head, sums to 1.
        strength: [h, H, W], length of what the head's channels make of each position.
        grid: the map of the positions.
        shows: the sentence.
    """
    rows = (Row('channels: each row, a channel, takes these shares of the columns, the channels of its head', weights,
                None, even=1. / weights.shape[-1]),
            Row('where each head is strong: length of its mixed channels at every position', strength, grid))
    return Look(shows, rows, {'channels': weights, 'strength': strength},
                {'channels': 'heads, channels, channels', 'strength': 'heads, rows, columns'}, averages=False)


def token_look(weights: np.ndarray, grid: Grid, *, title: str, even: float, shows: str, first: int = 0,
               captions: Sequence[str] = (), points: Sequence[Row] = ()) -> Look:
    """The look of a layer between positions and a few tokens: one map a token.

    Args:
        weights: [L, H, W], shares that sum to 1 over the positions of a token or over the tokens of a position.
        grid: the map of the positions.
        title: what the maps are.
        even: the share that each would have if attention were even.
        shows: the sentence.
        first: number of the first token.
        captions: what to add to the name of each token.
        points: rows of single points.
    """
    row = Row(title, weights, grid, tuple(captions), even=even)
    return Look(shows, (row, *points), {'tokens': weights}, {'tokens': 'tokens, rows, columns'}, averages=False,
                unit='token', first=first)


def _sub_sampled(layer: GlobalAttention, inputs: Sequence[paddle.Tensor], frame: Frame) -> Look:
    """Twins' global attention, [1, H, W, C]: every position attends cells of a smaller map."""
    x, = inputs
    height, width, channels = x.shape[1:]
    queries = frame.grid(height, width)
    query = layer.q(x).reshape([height * width, layer.heads, -1]).numpy()
    ratio = 1 if layer.sr is None else layer.sr.weight.shape[-1]
    x = layer.sub_sampled(x)
    rows, columns = x.shape[1:3]
    key = layer.kv(x)[..., :channels].reshape([rows * columns, layer.heads, -1]).transpose([1, 2, 0])  # [h, d, S]

    def weights(indices: np.ndarray) -> np.ndarray:
        chosen = query[indices].transpose(1, 0, 2)  # [h, P, d]
        return _shares(chosen, key, scale=chosen.shape[-1]**-0.5)

    keys = Grid(rows, columns, (queries.cell[0] * ratio, queries.cell[1] * ratio))
    return position_look(weights, queries, keys, frame, shows='shares of attention that a position gives to the cells '
                         f'of the sub-sampled map ({rows}×{columns} keys, {_each(ratio)})')


def _windowed(layer: LocalAttention, inputs: Sequence[paddle.Tensor], frame: Frame) -> Look:
    """Twins' local attention, [1, H, W, C]: every position attends those of its window, and padding if unmasked."""
    x, = inputs
    height, width = x.shape[1:3]
    grid, area = frame.grid(height, width), layer.window**2
    # The positions of each window, counted from 1; 0 is padding.
    places = paddle.arange(1, height * width + 1, dtype='float64').reshape([1, height, width, 1])
    places = map_to_windows(places, (height, width), layer.window).numpy()[0, :, :, 0].astype(np.int64)  # [w, s²]
    weights = _shares_in_windows(layer, x, places)  # [w, h, s², s²]

    def painted(shares: np.ndarray, at: np.ndarray) -> np.ndarray:
        whole = np.zeros((layer.heads, 1 + height * width), dtype=np.float32)
        whole[:, at] = shares
        return whole[:, 1:].reshape(-1, height, width)

    real = (places > 0)[:, np.newaxis, :, np.newaxis]
    mean = (weights * real).sum(axis=2) / real.sum(axis=2)  # [w, h, s²]
    rows = [Row('mean over the positions of each window', painted(mean.transpose(1, 0, 2), places), grid,
                even=1. / area)]
    by_point = np.zeros((layer.heads, len(frame.points), height, width), dtype=np.float32)
    for index, cell in enumerate(frame.cells(grid)):
        window, place = np.argwhere(places == cell + 1)[0]
        shares = weights[window, :, place]  # [h, s²]
        padding = places[window] == 0
        takes_part = padding.any() and not layer.masks
        captions = tuple(f'{100. * each:.3g} % to padding' for each in shares[:, padding].sum(axis=1) if takes_part)
        even = 1. / (np.count_nonzero(~padding) if layer.masks else area)
        by_point[:, index] = painted(shares, places[window])
        rows.append(Row(f'seen from {_point(frame, index)}', by_point[:, index], grid, captions, index, even))
    return Look('shares of attention that a position gives to the positions of its window '
                f'({layer.window}×{layer.window}), and none to others', tuple(rows),
                {'mean': rows[0].maps, 'points': by_point},
                {'mean': 'heads, rows, columns', 'points': 'heads, points, rows, columns'}, averages=True)


def _across_resolutions(layer: CrossResolutionAttention, inputs: Sequence[paddle.Tensor], frame: Frame) -> Look:
    """RTFormer's cross-resolution attention, [1, C, H, W] and [1, 2C, n, n]."""
    x, key_value = inputs
    queries = frame.grid(*x.shape[2:])
    query = layer.norm(x).flatten(2)[0].transpose([1, 0]).numpy()  # [H·W, C]
    key = paddle.split(key_value.flatten(2), 2, axis=1)[0]  # [1, C, n²]
    rows, columns = key_value.shape[2:]

    def weights(indices: np.ndarray) -> np.ndarray:
        return _shares(query[indices][np.newaxis], key, scale=key.shape[2]**-0.5)

    return position_look(weights, queries, frame.even_grid(rows, columns), frame, shows='shares of attention that a '
                         f'position of the high-resolution map gives to the {rows}×{columns} cells of the low one')


def _slots(layer: ExternalAttention, inputs: Sequence[paddle.Tensor], frame: Frame) -> Look:
    """External attention, [1, C, H, W]: every position attends learned slots, in groups that stand for heads."""
    x, = inputs
    scores = F.conv2d(layer.norm(x), layer.k, stride=layer.stride, groups=layer.conv_groups)  # [1, M, H, W]
    weights = grouped_double_normalisation(scores, layer.norm_groups)[0].numpy()
    weights = weights.reshape(layer.norm_groups, -1, *weights.shape[1:])
    return slot_look(weights, frame.grid(*weights.shape[2:]), frame, shows='share of learned memory slots at every '
                     f'position; the {weights.shape[1]} slots of a head share each position')


def _channels(layer: CrossCovarianceAttention, inputs: Sequence[paddle.Tensor], frame: Frame) -> Look:
    """XCiT's cross-covariance attention, [1, L, C]: the channels of a head attend each other."""
    x, = inputs
    tokens = x.shape[1]
    grid = frame.token_grid(tokens)
    attention = layer.attention(x)[0]  # [h, d, d]
    value = layer.value(x)[0].reshape([tokens, layer.heads, -1]).transpose([1, 2, 0])  # [h, d, L]
    strength = paddle.matmul(attention, value).square().sum(axis=1).sqrt()
    strength = strength.reshape([layer.heads, grid.rows, grid.columns])
    return channel_look(attention.numpy(), strength.numpy(), grid, shows='how the '
                        f'{attention.shape[-1]} channels of each head mix, and where the head is strong')


def _filtered(layer: FilterTokenizer, inputs: Sequence[paddle.Tensor], frame: Frame) -> Look:
    """Tokens that learned filters find, [1, C, H, W]."""
    x, = inputs
    return _tokens_of(layer.attention(x), x, frame, shows='shares of the positions that each token is made of; it '
                      'looks for the same in every image')


def _recurrent(layer: RecurrentTokenizer, inputs: Sequence[paddle.Tensor], frame: Frame) -> Look:
    """Tokens that older ones look for, [1, C, H, W] and [1, T, L]; they stand behind those that are kept."""
    x, tokens = inputs
    kept = tokens.shape[2] - layer.renewed
    return _tokens_of(layer.attention(x, tokens), x, frame, first=kept, shows='shares of the positions that each new '
                      f'token is made of; token {kept} looks for what token 0 of the module before says, and so on')


def _tokens_of(attention: paddle.Tensor, x: paddle.Tensor, frame: Frame, *, shows: str, first: int = 0) -> Look:
    """[1, L, HW] of the map `x`."""
    weights = attention[0].reshape([-1, *x.shape[2:]]).numpy()
    return token_look(weights, frame.grid(*weights.shape[1:]), even=1. / weights[0].size, first=first, shows=shows,
                      title='tokens: each is a mean over the image with these shares')


def _projected(layer: Projector, inputs: Sequence[paddle.Tensor], frame: Frame) -> Look:
    """Tokens that go back to the map, [1, C, H, W] and [1, T, L]: every position attends the tokens."""
    x, tokens = inputs
    weights = layer.attention(x, tokens)[0].reshape([-1, *x.shape[2:]]).numpy()
    grid, even = frame.grid(*x.shape[2:]), 1. / len(weights)
    points = []
    for index, cell in enumerate(frame.cells(grid)):
        shares = weights.reshape(len(weights), -1)[:, cell]
        most = np.argsort(-shares, kind='stable')[:FAVOURITES]
        points.append(Row(f'the tokens that {_point(frame, index)}, takes most from', weights[most], grid,
                          tuple(f'{100. * share:.3g} % there' for share in shares[most]), index, even,
                          tuple(most.tolist())))
    return token_look(weights, grid, title='tokens: the share that every position takes from each', even=even,
                      captions=[f'{100. * share:.3g} % of all' for share in weights.mean(axis=(1, 2))], points=points,
                      shows=f'shares that a position takes from the {len(weights)} tokens')


def _related(layer: TokenTransformer, inputs: Sequence[paddle.Tensor], frame: Frame) -> Look:
    """Self-attention between tokens, [1, T, L]."""
    weights = layer.attention(inputs[0]).numpy()  # [1, L, L]
    row = Row('tokens: each row, a token, takes these shares of the columns, all tokens', weights, None,
              even=1. / weights.shape[-1])
    return Look(f'how the {weights.shape[-1]} tokens attend to each other', (row,), {'tokens': weights},
                {'tokens': 'heads, tokens, tokens'}, averages=False)


# A function for each class of layer that can be looked into: (layer, inputs of its forward, frame) to Look.
LOOKS: dict[type[nn.Layer], Callable[..., Look]] = {
    GlobalAttention: _sub_sampled,
    LocalAttention: _windowed,
    CrossResolutionAttention: _across_resolutions,
    ExternalAttention: _slots,
    CrossCovarianceAttention: _channels,
    FilterTokenizer: _filtered,
    RecurrentTokenizer: _recurrent,
    TokenTransformer: _related,
    Projector: _projected,
}


def _shares(query: np.ndarray, key: paddle.Tensor, *, scale: float) -> np.ndarray:
    """softmax(query · key · scale) over the keys: [h, P, d] and [h, d, S] to [h, P, S]; empty for no queries."""
    if query.shape[1] == 0:
        return np.zeros((len(query), 0, key.shape[2]), dtype=np.float32)
    return F.softmax(paddle.matmul(paddle.to_tensor(query), key) * scale, axis=-1).numpy()


def _shares_in_windows(layer: LocalAttention, x: paddle.Tensor, places: np.ndarray) -> np.ndarray:
    """[w, h, s², s²] of the map `x` [1, H, W, C], where `places` [w, s²] is 0 for padding."""
    channels = x.shape[3] // layer.heads
    qkv = layer.qkv(map_to_windows(x, x.shape[1:3], layer.window))[0]  # [w, s², 3C]
    query, key, _ = qkv.reshape([*places.shape, 3, layer.heads, channels]).transpose([2, 0, 3, 1, 4])  # [w, h, s², d]
    scores = paddle.matmul(query, key, transpose_y=True) * channels**-0.5
    if layer.masks:
        scores += paddle.to_tensor(np.where(places > 0, 0., -1e4).astype(np.float32)).unsqueeze([1, 2])
    return F.softmax(scores, axis=-1).numpy()


def _mean_over_queries(weights: Callable[[np.ndarray], np.ndarray], queries: int, keys: int) -> np.ndarray:
    """[h, S], summed in float64, a part of the queries at a time."""
    step = max(1, CHUNK_ELEMENTS // keys)
    parts = (weights(np.arange(start, min(start + step, queries))) for start in range(0, queries, step))
    total = sum(part.sum(axis=1, dtype=np.float64) for part in parts)
    return (total / queries).astype(np.float32)


def _point(frame: Frame, index: int) -> str:
    point = frame.points[index]
    return f'point {index + 1} ({point.x}, {point.y}), {point.name}'


def _each(ratio: int) -> str:
    return f'one for {ratio}×{ratio} positions' if ratio > 1 else 'one a position'
