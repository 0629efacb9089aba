"""The layers of Twins from their definition, in NumPy and float64, cell by cell: independent of padding and reshapes.

Weights are dictionaries in Paddle's layout: linear maps [in, out], convolutions [out, in, height, width].
Letters: N batch, H×W map, C channels, h heads, d = C/h.
"""
from __future__ import annotations

import numpy as np

__all__ = ['global_attention', 'local_attention', 'position_encoding']


def local_attention(x: np.ndarray, weights: dict, *, heads: int, window: int, padding: str) -> np.ndarray:
    """LSA of [N, H, W, C]: each cell attends the cells of its window that the map has.

    `padding` 'zero' adds, as timm does, a cell of zeros for each that a window at the border lacks.
    """
    out = np.empty(x.shape)
    for top in range(0, x.shape[1], window):
        for left in range(0, x.shape[2], window):
            cells = x[:, top:top + window, left:left + window].astype('float64')
            batch, height, width, channels = cells.shape
            tokens = cells.reshape(batch, -1, channels)
            lacking = window**2 - height * width if padding == 'zero' else 0
            keys = np.concatenate([tokens, np.zeros((batch, lacking, channels))], axis=1)
            query = _linear(tokens, weights, 'qkv')[..., :channels]
            key, value = np.split(_linear(keys, weights, 'qkv')[..., channels:], 2, axis=-1)
            y = _attend(query, key, value, heads)
            out[:, top:top + window, left:left + window] = y.reshape(cells.shape)
    return _linear(out, weights, 'proj')


def global_attention(x: np.ndarray, weights: dict, *, heads: int, ratio: int) -> np.ndarray:
    """GSA of [N, H, W, C]: each cell attends one key for each whole ratio×ratio patch."""
    x = x.astype('float64')
    batch, height, width, channels = x.shape
    source = x
    if ratio > 1:
        source = np.empty((batch, height // ratio, width // ratio, channels))
        for row in range(height // ratio):
            for column in range(width // ratio):
                patch = x[:, row * ratio:(row + 1) * ratio, column * ratio:(column + 1) * ratio]
                source[:, row, column] = np.einsum('nyxi,oiyx->no', patch, weights['sr.weight']) + weights['sr.bias']
        centred = source - source.mean(axis=-1, keepdims=True)
        source = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        source = source * weights['norm.weight'] + weights['norm.bias']
    key, value = np.split(_linear(source.reshape(batch, -1, channels), weights, 'kv'), 2, axis=-1)
    query = _linear(x.reshape(batch, -1, channels), weights, 'q')
    return _linear(_attend(query, key, value, heads), weights, 'proj').reshape(x.shape)


def position_encoding(x: np.ndarray, weights: dict) -> np.ndarray:
    """PEG of [N, H, W, C]: to each channel, the sum over its 3×3 neighbours by its own kernel, zeros outside."""
    x = x.astype('float64')
    _, height, width, _ = x.shape
    out = x + weights['proj.bias']
    for row in range(height):
        for column in range(width):
            for y in range(max(row - 1, 0), min(row + 2, height)):
                for z in range(max(column - 1, 0), min(column + 2, width)):
                    out[:, row, column] += x[:, y, z] * weights['proj.weight'][:, 0, y - row + 1, z - column + 1]
    return out


def _linear(x: np.ndarray, weights: dict, name: str) -> np.ndarray:
    return x @ weights[f'{name}.weight'].astype('float64') + weights[f'{name}.bias']


def _attend(query: np.ndarray, key: np.ndarray, value: np.ndarray, heads: int) -> np.ndarray:
    """[N, L, C], keys and values [N, S, C]; channels of a head lie side by side."""
    out = np.empty(query.shape)
    for part in np.split(np.arange(query.shape[-1]), heads):
        logits = query[..., part] @ key[..., part].transpose(0, 2, 1) / np.sqrt(len(part))
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        out[..., part] = weights / weights.sum(axis=-1, keepdims=True) @ value[..., part]
    return out
