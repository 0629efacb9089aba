"""Visual Transformers from the paper's equations (arXiv 2006.03677), in NumPy and float64: independent of our layers.

As the paper writes them: pixels are rows, X [N, HW, C], tokens are rows, T [N, L, C_T], and a matrix stands behind. A
matrix in groups is written out, as blocks on the diagonal of zeros. What the paper leaves open is taken from the
docstrings of our layers, and the ε of the norm, 1e-6, from their code. Weights are dictionaries by the names of our
models.
"""
from __future__ import annotations

import numpy as np
from numpy_heads import Weights, average_cells, bilinear, convolution, plain
from numpy_heads import block as convolution_norm_relu
from xcit_numpy import batch_norm

__all__ = ['backbone', 'classifier', 'filter_tokenizer', 'matrix', 'module', 'pooled', 'projector',
           'recurrent_tokenizer', 'relation', 'resnet_maps', 'rows', 'token_norm', 'token_pyramid', 'vt_fpn']

GRID = 7


def rows(maps):
    """[N, C, H, W] to X [N, HW, C]."""
    return maps.reshape(*maps.shape[:2], -1).transpose(0, 2, 1)


def matrix(weight, groups=1):
    """The matrix [in, out] of a convolution over single positions whose kernel is [out, in / groups, 1(, 1)]."""
    kernel = weight.reshape(weight.shape[:2])
    outputs, inputs = kernel.shape[0] // groups, kernel.shape[1]
    whole = np.zeros((inputs * groups, kernel.shape[0]))
    for group in range(groups):
        columns = slice(group * outputs, (group + 1) * outputs)
        whole[group * inputs:(group + 1) * inputs, columns] = kernel[columns].T
    return whole


def softmax(x, axis):
    raised = np.exp(x - x.max(axis=axis, keepdims=True))
    return raised / raised.sum(axis=axis, keepdims=True)


def transposed(x):
    return x.transpose(0, 2, 1)


# Tokenizers

def position_channels(attention, size, w):
    """A [N, HW, L] of a map of `size`, pooled and relative to the mean of its cells, to channels [N, L, P]."""
    maps = transposed(attention).reshape(len(attention), -1, *size)
    cells = average_cells(maps, GRID).reshape(*maps.shape[:2], GRID**2)
    return cells / cells.mean(axis=-1, keepdims=True) @ matrix(w['weights.weight'])


def pooled(maps, attention, w, groups):
    """T = Aᵀ (X W_V), with the channels of the positions behind: [N, L, C_T]."""
    tokens = transposed(attention) @ (rows(maps) @ matrix(w['value.weight'], groups))
    if 'positions.' not in w:
        return tokens
    return np.concatenate([tokens, position_channels(attention, maps.shape[2:], w.below('positions'))], axis=-1)


def filter_tokenizer(maps, w, *, groups):
    """A = softmax over HW of X W_A."""
    attention = softmax(rows(maps) @ matrix(w['filters.weight']), axis=1)
    return pooled(maps, attention, w.below('pooling'), groups)


def recurrent_tokenizer(maps, tokens, w, *, groups):
    """W_A = (T W_TA)ᵀ / √C of the first half of the old tokens, whose place the new ones take, at the end."""
    renewed = tokens.shape[1] // 2
    filters = tokens[:, :renewed] @ matrix(w['filters.weight'])
    attention = softmax(rows(maps) @ transposed(filters) / np.sqrt(maps.shape[1]), axis=1)
    return np.concatenate([tokens[:, renewed:], pooled(maps, attention, w.below('pooling'), groups)], axis=1)


# Between tokens

def relation(name, tokens, w, *, groups):
    """[N, L, C_T] to the same."""
    return {'transformer': _transformer, 'convolution': _convolution, 'none': _none}[name](tokens, w, groups)


def _transformer(tokens, w, groups):
    keys, queries = (tokens @ matrix(w[f'{name}.weight'], groups) for name in ('key', 'query'))
    scores = keys @ transposed(queries) / np.sqrt(tokens.shape[-1] / 2)
    tokens = tokens + softmax(scores, axis=-1) @ tokens
    return tokens + np.maximum(tokens @ matrix(w['fc1.weight']), 0.) @ matrix(w['fc2.weight'])


def _convolution(tokens, w, groups):
    hidden = np.maximum(_over_neighbours(tokens, w['conv1.weight'], groups), 0.)
    return tokens + _over_neighbours(hidden, w['conv2.weight'], groups)


def _over_neighbours(tokens, weight, groups):
    """Token i from tokens i - 1, i and i + 1, zeros beyond the ends."""
    out = np.zeros(tokens.shape)
    for index in range(tokens.shape[1]):
        for place in range(3):
            neighbour = index + place - 1
            if 0 <= neighbour < tokens.shape[1]:
                out[:, index] += tokens[:, neighbour] @ matrix(weight[:, :, place], groups)
    return out


def _none(tokens, w, groups):
    return tokens


# Back to pixels, and whole modules

def token_norm(tokens, w):
    """Every token, a row, with mean 0 and variance 1, and then scaled by channel."""
    deviations = tokens - tokens.mean(axis=-1, keepdims=True)
    return deviations / np.sqrt((deviations**2).mean(axis=-1, keepdims=True) + 1e-6) * w['weight']


def projector(maps, tokens, w, *, groups):
    """X' = X + softmax over L of (X W_Q)(T W_K)ᵀ / √C (T W_V), as a map."""
    pixels = rows(maps)
    keys, values = (tokens @ matrix(w[f'{name}.weight']) for name in ('key', 'value'))
    scores = pixels @ matrix(w['query.weight'], groups) @ transposed(keys) / np.sqrt(maps.shape[1])
    return transposed(pixels + softmax(scores, axis=-1) @ values).reshape(maps.shape)


def module(maps, tokens, w, *, groups, recurrent, relation_name, project=True):
    """A map and the old tokens, of which a filter-based tokenizer takes no notice, to both."""
    if recurrent:
        tokens = recurrent_tokenizer(maps, tokens, w.below('tokenizer'), groups=groups)
    else:
        tokens = filter_tokenizer(maps, w.below('tokenizer'), groups=groups)
    tokens = token_norm(relation(relation_name, tokens, w.below('relation'), groups=groups), w.below('norm'))
    if project:
        maps = projector(maps, tokens, w.below('projector'), groups=groups)
    return maps, tokens


# ResNet

def _convolution_norm(x, w, stride=1):
    """Every `stride`-th position of a convolution that keeps the size."""
    return batch_norm(convolution(x, w['conv.weight'])[:, :, ::stride, ::stride], w.below('bn'))


def _max_pool(x):
    """Of 3×3 positions, at every second one."""
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    shifted = [padded[:, :, row:row + height, column:column + width] for row in range(3) for column in range(3)]
    return np.max(shifted, axis=0)[:, :, ::2, ::2]


def _block(x, w, *, stride):
    """A basic block of 3×3 and 3×3, which strides in the first, or a bottleneck of 1×1, 3×3 and 1×1, in the second."""
    convolutions = w.list('convs')
    strides = {2: (stride, 1), 3: (1, stride, 1)}[len(convolutions)]
    branch = x
    for index, (each, step) in enumerate(zip(convolutions, strides)):
        branch = _convolution_norm(branch if index == 0 else np.maximum(branch, 0.), each, step)
    shortcut = _convolution_norm(x, w.below('shortcut'), stride) if 'shortcut.' in w else x
    return np.maximum(shortcut + branch, 0.)


def _maps_behind_stages(images, w):
    x = _max_pool(np.maximum(_convolution_norm(images.astype('float64'), w.below('stem.conv1'), 2), 0.))
    maps = []
    for index in range(len(w.list('stages'))):
        for number, each in enumerate(w.list(f'stages.{index}')):
            x = _block(x, each, stride=2 if index > 0 and number == 0 else 1)
        maps.append(x)
    return maps


def resnet_maps(images, arrays):
    """The maps of a plain ResNet, as many as it has stages."""
    return _maps_behind_stages(images, Weights(arrays))


# VT-ResNet

def _encode(images, w, *, groups, tokenizer, relation_name, project):
    maps = _maps_behind_stages(images, w)
    x, tokens = maps[-1], None
    modules = w.list('transformers')
    for index, each in enumerate(modules):
        x, tokens = module(x, tokens, each, groups=groups, recurrent=tokenizer == 'recurrent' and index > 0,
                           relation_name=relation_name, project=project or index < len(modules) - 1)
    return [*maps, x], tokens


def backbone(images, arrays, *, groups, tokenizer, relation_name):
    """The four maps."""
    return _encode(images, Weights(arrays), groups=groups, tokenizer=tokenizer, relation_name=relation_name,
                   project=True)[0]


def classifier(images, arrays, *, groups, tokenizer, relation_name):
    """Logits [N, classes] from the mean of the last tokens."""
    w = Weights(arrays)
    tokens = _encode(images, w.below('backbone'), groups=groups, tokenizer=tokenizer, relation_name=relation_name,
                     project=False)[1]
    return tokens.mean(axis=1) @ w['head.weight'] + w['head.bias']


# VT-FPN

def token_pyramid(maps, w, *, groups, relation_name):
    """The maps at one width, each with what it took from the tokens of all."""
    maps = [convolution_norm_relu(x, lateral) for x, lateral in zip(maps, w.list('laterals'))]
    tokens = np.concatenate([filter_tokenizer(x, each, groups=groups)
                             for x, each in zip(maps, w.list('tokenizers'))], axis=1)
    tokens = token_norm(relation(relation_name, tokens, w.below('relation'), groups=groups), w.below('norm'))
    return [projector(x, tokens, each, groups=groups) for x, each in zip(maps, w.list('projectors'))]


def vt_fpn(maps, arrays, *, groups, relation_name):
    """Logits at the size of the finest of the backbone's maps."""
    w = Weights(arrays)
    pyramid = token_pyramid(maps, w.below('neck'), groups=groups, relation_name=relation_name)
    total = sum(bilinear(np.maximum(batch_norm(x, norm), 0.), maps[0].shape[2:])
                for x, norm in zip(pyramid, w.list('head.bns')))
    return plain(total, w.below('head.classifier'))
