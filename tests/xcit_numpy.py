"""XCiT from its definition, in NumPy and float64: independent of our reshapes, and of what our layers put together.

Weights are dictionaries by the names of our models, in Paddle's layout: linear maps [in, out], convolutions [out, in,
height, width], transposed ones [in, out, height, width]. Letters: N batch, L tokens, H×W map, C channels, h heads.
"""
from __future__ import annotations

import math

import numpy as np
from numpy_heads import Weights

__all__ = ['backbone', 'class_block', 'classifier', 'cross_covariance_attention', 'fourier_positions',
           'local_patch_interaction', 'max_pool', 'pyramid']

_erf = np.vectorize(math.erf)


def gelu(x):
    return 0.5 * x * (1. + _erf(x / np.sqrt(2.)))


def linear(x, w):
    return x @ w['weight'] + w['bias']


def layer_norm(x, w, epsilon=1e-6):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon) * w['weight'] + w['bias']


def batch_norm(x, w):
    mean, variance, scale, shift = (w[name][:, None, None] for name in ('_mean', '_variance', 'weight', 'bias'))
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + shift


def convolution(x, weight, bias=None, *, stride=1):
    """3×3 over a border of one zero, depth-wise where the kernel has one input channel and the map has more."""
    height, width = ((side - 1) // stride + 1 for side in x.shape[2:])
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    equation = 'oc,nohw->nohw' if weight.shape[1] == 1 < x.shape[1] else 'oc,nchw->nohw'
    total = 0.
    for row in range(3):
        for column in range(3):
            rows, columns = (slice(start, start + stride * (length - 1) + 1, stride)
                             for start, length in ((row, height), (column, width)))
            cells = padded[:, :, rows, columns]
            total = total + np.einsum(equation, weight[:, :, row, column], cells)
    return total if bias is None else total + bias[:, None, None]


def doubled(x, w):
    """A transposed 2×2 convolution of stride 2: each cell becomes four."""
    out = np.empty((x.shape[0], w['weight'].shape[1], 2 * x.shape[2], 2 * x.shape[3]))
    for row in range(2):
        for column in range(2):
            out[:, :, row::2, column::2] = np.einsum('nchw,co->nohw', x, w['weight'][:, :, row, column])
    return out + w['bias'][:, None, None]


def max_pool(x, side):
    height, width = x.shape[2] // side, x.shape[3] // side
    cells = x[:, :, :height * side, :width * side].reshape(*x.shape[:2], height, side, width, side)
    return cells.max(axis=(3, 5))


def fourier_positions(size, w, *, waves=32, temperature=10000.):
    """[C, H, W], cell by cell as the paper's code builds it."""
    height, width = size
    table = np.empty((2 * waves, height, width))
    for row in range(height):
        for column in range(width):
            places = (row + 1) / (height + 1e-6), (column + 1) / (width + 1e-6)
            for side, place in enumerate(places):
                for wave in range(waves):
                    angle = 2. * math.pi * place / temperature**(2 * (wave // 2) / waves)
                    table[side * waves + wave, row, column] = math.cos(angle) if wave % 2 else math.sin(angle)
    return np.einsum('oc,chw->ohw', w['proj.weight'][:, :, 0, 0], table) + w['proj.bias'][:, None, None]


def cross_covariance_attention(x, w, heads):
    """[N, L, C] to the same, head by head with channels in rows."""
    query, key, value = np.split(linear(x, w.below('qkv')), 3, axis=-1)
    out = np.empty(x.shape)
    for head, part in enumerate(np.split(np.arange(x.shape[-1]), heads)):
        q, k, v = (each[..., part].transpose(0, 2, 1) for each in (query, key, value))  # [N, d, L]
        q, k = (each / np.maximum(np.linalg.norm(each, axis=-1, keepdims=True), 1e-12) for each in (q, k))
        out[..., part] = (_softmax(q @ k.transpose(0, 2, 1) * w['temperature'][head]) @ v).transpose(0, 2, 1)
    return linear(out, w.below('proj'))


def local_patch_interaction(x, w):
    """[N, C, H, W] to the same."""
    x = convolution(x, w['conv1.weight'], w['conv1.bias'])
    return convolution(batch_norm(gelu(x), w.below('bn')), w['conv2.weight'], w['conv2.bias'])


def feed_forward(x, w):
    return linear(gelu(linear(x, w.below('fc1'))), w.below('fc2'))


def block(x, w, heads):
    """[N, C, H, W] to the same."""
    def tokens(maps):
        return maps.reshape(*maps.shape[:2], -1).transpose(0, 2, 1)

    def maps(rows):
        return rows.transpose(0, 2, 1).reshape(x.shape)

    def scale(name):
        return w[name][:, None, None]

    x = x + scale('gamma1') * maps(cross_covariance_attention(layer_norm(tokens(x), w.below('norm1')),
                                                              w.below('attn'), heads))
    x = x + scale('gamma3') * local_patch_interaction(maps(layer_norm(tokens(x), w.below('norm3'))), w.below('local'))
    return x + scale('gamma2') * maps(feed_forward(layer_norm(tokens(x), w.below('norm2')), w.below('mlp')))


def pyramid(tokens, w):
    """The maps [N, C, H, W] behind four blocks to those of strides 4, 8, 16 and 32."""
    levels = w.list('pyramid')
    if len(levels) == 2:  # patches of 16
        first = gelu(batch_norm(doubled(tokens[0], levels[0].below('up1')), levels[0].below('bn')))
        return [doubled(first, levels[0].below('up2')), doubled(tokens[1], levels[1].below('up1')), tokens[2],
                max_pool(tokens[3], 2)]
    return [doubled(tokens[0], levels[0].below('up1')), tokens[1], max_pool(tokens[2], 2), max_pool(tokens[3], 4)]


def tokens_behind(images, w, heads, indices):
    """The maps [N, C, H, W] behind the blocks `indices`."""
    x = images.astype('float64')
    for index, step in enumerate(w.list('patch_embed')):
        x = batch_norm(convolution(x if index == 0 else gelu(x), step['conv.weight'], stride=2), step.below('bn'))
    x = x + fourier_positions(x.shape[2:], w.below('position'))
    maps = []
    for each in w.list('blocks'):
        x = block(x, each, heads)
        maps.append(x)
    return [maps[index] for index in indices]


def backbone(images, arrays, *, heads, indices):
    """The four maps of a backbone with a pyramid."""
    w = Weights(arrays)
    return pyramid(tokens_behind(images, w, heads, indices), w)


def class_block(x, w, heads, *, tokens_norm):
    """[N, L, C] to the same, the class token first."""
    normed = layer_norm(x, w.below('norm1'))
    attended = _class_attention(normed, w.below('attn'), heads)
    x = x + w['gamma1'] * np.concatenate([attended, normed[:, 1:]], axis=1)
    rest = layer_norm(x[:, 1:], w.below('norm2')) if tokens_norm else x[:, 1:]
    x = np.concatenate([layer_norm(x[:, :1], w.below('norm2')), rest], axis=1)
    return x + np.concatenate([w['gamma2'] * feed_forward(x[:, :1], w.below('mlp')), rest], axis=1)


def _class_attention(x, w, heads):
    query, key, value = (linear(part, w.below(letter)) for letter, part in (('q', x[:, :1]), ('k', x), ('v', x)))
    out = np.empty((len(x), 1, x.shape[-1]))
    for part in np.split(np.arange(x.shape[-1]), heads):
        weights = _softmax(query[..., part] @ key[..., part].transpose(0, 2, 1) / np.sqrt(len(part)))
        out[..., part] = weights @ value[..., part]
    return linear(out, w.below('proj'))


def classifier(images, arrays, *, heads, tokens_norm):
    """Logits [N, classes]."""
    w = Weights(arrays)
    depth = len(w.list('backbone.blocks'))
    [x] = tokens_behind(images, w.below('backbone'), heads, [depth - 1])
    x = x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)
    x = np.concatenate([np.repeat(w['cls_token'], len(x), axis=0), x], axis=1)
    for each in w.list('class_blocks'):
        x = class_block(x, each, heads, tokens_norm=tokens_norm)
    return linear(layer_norm(x, w.below('norm'))[:, 0], w.below('head'))


def _softmax(x):
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)
