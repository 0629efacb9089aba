"""The heads as their papers and mmsegmentation define them, in NumPy and float64: the oracle of `test_heads.py`.

Maps are [N, C, H, W]; weights come as a dictionary by the names of our models.
"""
from __future__ import annotations

import numpy as np

__all__ = ['average_cells', 'bilinear', 'fcn_head', 'linear_fusion', 'semantic_fpn', 'upernet']


class Weights:
    """A dictionary of arrays seen from a prefix: `w['conv.weight']`, `w.below('head.fuse')`."""

    def __init__(self, arrays: dict, prefix: str = ''):
        self.arrays, self.prefix = arrays, prefix

    def __getitem__(self, name):
        return self.arrays[self.prefix + name].astype('float64')

    def __contains__(self, name):
        return any(key.startswith(self.prefix + name) for key in self.arrays)

    def below(self, name):
        return Weights(self.arrays, f'{self.prefix}{name}.')

    def list(self, name):
        """The entries `name.0`, `name.1`, … as many as there are."""
        count = 0
        while f'{name}.{count}.' in self:
            count += 1
        return [self.below(f'{name}.{index}') for index in range(count)]


def convolution(x, weight, bias=None):
    """Zero padding of half the kernel, stride 1: a sum over the positions of the kernel."""
    half = weight.shape[2] // 2
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (half, half), (half, half)))
    total = sum(np.einsum('oc,nchw->nohw', weight[:, :, row, column],
                          padded[:, :, row:row + height, column:column + width])
                for row in range(weight.shape[2]) for column in range(weight.shape[3]))
    return total if bias is None else total + bias[:, None, None]


def plain(x, w):
    return convolution(x, w['weight'], w['bias'])


def block(x, w):
    """Convolution, batch norm by the running statistics, ReLU."""
    x = convolution(x, w['conv.weight'])
    mean, variance, scale, shift = (w[f'bn.{name}'][:, None, None] for name in ('_mean', '_variance', 'weight', 'bias'))
    return np.maximum((x - mean) / np.sqrt(variance + 1e-5) * scale + shift, 0.)


def _bilinear_side(old, new):
    """[new, old]: half-pixel centres, clamped at the border."""
    matrix = np.zeros((new, old))
    for index in range(new):
        place = max((index + 0.5) * old / new - 0.5, 0.)
        low = min(int(place), old - 1)
        matrix[index, low] += 1. - (place - low)
        matrix[index, min(low + 1, old - 1)] += place - low
    return matrix


def bilinear(x, size):
    rows, columns = (_bilinear_side(old, new) for old, new in zip(x.shape[2:], size))
    return np.einsum('ih,nchw,jw->ncij', rows, x, columns)


def nearest(x, size):
    rows, columns = ([int(np.floor(index * old / new)) for index in range(new)]
                     for old, new in zip(x.shape[2:], size))
    return x[:, :, rows][:, :, :, columns]


def average_cells(x, cells):
    """Cell i of n over a side of length L is the mean of ⌊i·L/n⌋ to ⌈(i+1)·L/n⌉ - 1."""
    height, width = x.shape[2:]
    bounds = [[(index * side // cells, -(-(index + 1) * side // cells)) for index in range(cells)]
              for side in (height, width)]
    return np.stack([np.stack([x[:, :, top:bottom, left:right].mean(axis=(2, 3)) for left, right in bounds[1]], axis=2)
                     for top, bottom in bounds[0]], axis=2)


def semantic_fpn(maps, arrays, strides):
    w = Weights(arrays)
    pyramid = [plain(x, lateral) for x, lateral in zip(maps, w.list('neck.laterals'))]
    for index in range(len(pyramid) - 1, 0, -1):
        pyramid[index - 1] = pyramid[index - 1] + nearest(pyramid[index], pyramid[index - 1].shape[2:])
    total = 0.
    for x, output, scale, stride in zip(pyramid, w.list('neck.outputs'), w.below('head').list('scales'), strides):
        x = plain(x, output)
        steps = [scale.below(str(step)) for step in range(max(1, int(np.log2(stride / strides[0]))))]
        for step in steps:
            x = block(x, step)
            if stride != strides[0]:
                x = bilinear(x, (2 * x.shape[2], 2 * x.shape[3]))
        total = total + bilinear(x, pyramid[0].shape[2:])
    return plain(total, w.below('head.classifier'))


def upernet(maps, arrays, pool_sizes):
    w = Weights(arrays).below('head')
    coarsest = maps[-1]
    context = [bilinear(block(average_cells(coarsest, cells), pool), coarsest.shape[2:])
               for cells, pool in zip(pool_sizes, w.list('pools'))]
    pyramid = [block(x, lateral) for x, lateral in zip(maps, w.list('laterals'))]
    pyramid.append(block(np.concatenate([coarsest, *context], axis=1), w.below('bottleneck')))
    for index in range(len(pyramid) - 1, 0, -1):
        pyramid[index - 1] = pyramid[index - 1] + bilinear(pyramid[index], pyramid[index - 1].shape[2:])
    smooth = [block(x, output) for x, output in zip(pyramid, w.list('outputs'))] + [pyramid[-1]]
    joined = np.concatenate([bilinear(x, maps[0].shape[2:]) for x in smooth], axis=1)
    return plain(block(joined, w.below('fuse')), w.below('classifier'))


def linear_fusion(maps, arrays):
    w = Weights(arrays).below('head')
    size = maps[0].shape[2:]
    projected = [bilinear(plain(x, projection), size) for x, projection in zip(maps, w.list('projections'))]
    return plain(block(np.concatenate(projected, axis=1), w.below('fuse')), w.below('classifier'))


def fcn_head(x, arrays, prefix):
    w = Weights(arrays).below(prefix)
    for step in w.list('convs'):
        x = block(x, step)
    return plain(x, w.below('classifier'))
