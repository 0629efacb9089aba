"""What the parity tests of XCiT and the script that makes their fixtures share: names, widths and weights.

NumPy only, because one side runs with Paddle and the other with PyTorch.
"""
from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from twins_sources import NUM_CLASSES, REDUCED_HEADS, SIZES, images, output_key
from twins_sources import source_weights as weights_by_name

__all__ = ['FIXTURES', 'NUM_CLASSES', 'PUBLISHED_INDICES', 'REDUCED', 'REDUCED_HEADS', 'SIZES', 'TIMM_NAMES', 'images',
           'output_key', 'read_shapes', 'source_weights']

FIXTURES = Path(__file__).parent / 'fixtures' / 'xcit'

LONG = {'N': 'nano', 'T': 'tiny', 'S': 'small', 'M': 'medium', 'L': 'large'}
TIMM_NAMES = {f'XCiT_{size}_P{patch}': f'xcit_{LONG[size[0]]}_{size[1:]}_p{patch}_224'
              for size in ('N12', 'T12', 'T24', 'S12', 'S24', 'M24', 'L24') for patch in (16, 8)}
# Channels of the fixtures; depth and heads stay those of the variant, and a head has at least two channels.
REDUCED = {name: {'N': 16, 'T': 24, 'S': 32, 'M': 48, 'L': 32}[name[5]] for name in TIMM_NAMES}
# Blocks whose tokens the authors' segmentors take, by depth.
PUBLISHED_INDICES = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}


def read_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a fixture's weights in timm's names."""
    return {key: tuple(shape) for key, shape in json.loads((FIXTURES / f'{name}.json').read_text()).items()}


def source_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """As of `twins_sources`, but temperatures in [2, 6), so that attention is far from uniform."""
    weights = weights_by_name(shapes)
    for name, array in weights.items():
        if name.endswith('.temperature'):
            generator = np.random.default_rng(zlib.crc32(name.encode()))
            weights[name] = generator.uniform(2., 6., array.shape).astype('float32')
    return weights
