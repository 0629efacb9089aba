"""What the parity tests of Twins and the script that makes their fixtures share: names, widths, sizes and weights.

NumPy only, because one side runs with Paddle and the other with PyTorch. Weights are drawn from a seed, a name and a
shape, so that a fixture needs no more than names, shapes and the outputs of the reference.
"""
from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

__all__ = ['AUXILIARY', 'FIXTURES', 'HEADS', 'NUM_CLASSES', 'REDUCED_CHANNELS', 'REDUCED_HEADS', 'SIZES', 'SUBSAMPLING',
           'TIMM_NAMES', 'images', 'mask_is_right', 'output_key', 'read_shapes', 'source_weights', 'stage_sizes']

FIXTURES = Path(__file__).parent / 'fixtures' / 'twins'
NUM_CLASSES = 5

TIMM_NAMES = {
    'Twins_PCPVT_S': 'twins_pcpvt_small', 'Twins_PCPVT_B': 'twins_pcpvt_base', 'Twins_PCPVT_L': 'twins_pcpvt_large',
    'Twins_SVT_S': 'twins_svt_small', 'Twins_SVT_B': 'twins_svt_base', 'Twins_SVT_L': 'twins_svt_large',
}
HEADS = ('SemanticFPN', 'UPerNetMMSeg')

# Channels of the fixtures: depths, heads and ratios stay those of the variant, and a head has at least two channels.
REDUCED_CHANNELS = {
    'Twins_PCPVT_S': (4, 8, 20, 16), 'Twins_PCPVT_B': (4, 8, 20, 16), 'Twins_PCPVT_L': (4, 8, 20, 16),
    'Twins_SVT_S': (4, 8, 16, 32), 'Twins_SVT_B': (6, 12, 24, 48), 'Twins_SVT_L': (8, 16, 32, 64),
}
# Of the fixtures' segmentors: pyramid and head of SemanticFPN, head and auxiliary head of UPerNetMMSeg.
REDUCED_HEADS = {'fpn_channels': 8, 'head_channels': 6, 'channels': 8, 'aux_channels': 6}

# Height and width of the images; the second ones are odd.
SIZES = ((64, 96), (75, 61))
# The auxiliary logits are noted under this key beside those of the sizes; every so-manieth pixel of logits is kept.
AUXILIARY = 'auxiliary'
SUBSAMPLING = 5


def stage_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width of the four maps where patch embeddings pad, as mmsegmentation's do."""
    maps = []
    for patch in (4, 2, 2, 2):
        size = tuple(-(-length // patch) for length in size)
        maps.append(size)
    return maps


def mask_is_right(size: tuple[int, int], window: int = 7) -> bool:
    """Whether mmsegmentation masks what pads the windows, and nothing else, in every stage for images of this size.

    Where exactly one side of a map needs padding, its `mask[:, -0:]` marks everything, which is the same as no mask.
    """
    return all((height % window == 0) == (width % window == 0) for height, width in stage_sizes(size))


def images(size: tuple[int, int]) -> np.ndarray:
    """Two random images float32 [2, 3, *size], about standard normal as normalised images are."""
    return np.random.default_rng(1).normal(size=(2, 3, *size)).astype('float32')


def output_key(case: str, size: tuple[int, int], kind: str) -> str:
    """Under which name the logits of a case stand in `outputs.npz`; `kind` is 'main' or AUXILIARY."""
    return f'{case}/{size[0]}x{size[1]}/{kind}'


def read_shapes(source: str, name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a fixture's weights, in the names of `source`: 'timm' or 'mmsegmentation'."""
    return {key: tuple(shape) for key, shape in json.loads((FIXTURES / source / f'{name}.json').read_text()).items()}


def source_weights(shapes: Mapping[str, tuple[int, ...]], *, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights in PyTorch's names and layout whose every part shows in the output.

    Each array depends on the seed, its own name and its shape only. Scales of norms are in [0.5, 1.5), variances in
    [0.5, 2), biases and means of deviation 0.3, and matrices and kernels keep the size of their input.
    """
    return {name: _values(np.random.default_rng((seed, zlib.crc32(name.encode()))), name.split('.')[-1], shape)
            for name, shape in shapes.items()}


def _values(generator: np.random.Generator, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    if kind == 'num_batches_tracked':
        return np.array(7, dtype='int64')
    if kind == 'running_var':
        return generator.uniform(0.5, 2., shape).astype('float32')
    if kind == 'running_mean' or kind.endswith('bias'):
        return generator.normal(0., 0.3, shape).astype('float32')
    if len(shape) == 1:
        return generator.uniform(0.5, 1.5, shape).astype('float32')
    return generator.normal(0., np.prod(shape[1:])**-0.5, shape).astype('float32')
