"""What the parity tests of ResNet and the script that makes their fixtures share: names, widths and weights.

NumPy only, because one side runs with Paddle and the other with PyTorch.
"""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from twins_sources import NUM_CLASSES, REDUCED_HEADS, SIZES, images, output_key, source_weights

__all__ = ['FIXTURES', 'LOGITS', 'MAPS', 'NUM_CLASSES', 'REDUCED_HEADS', 'SIZES', 'TIMM_NAMES', 'WIDTHS', 'images',
           'output_key', 'read_shapes', 'source_weights', 'subsampled']

FIXTURES = Path(__file__).parent / 'fixtures' / 'resnet'

TIMM_NAMES = {'ResNet18': 'resnet18', 'ResNet34': 'resnet34', 'ResNet50': 'resnet50', 'ResNet101': 'resnet101'}
# Of the fixtures' 3×3 convolutions, by stage; the stem of timm's has 64 whatever the others have.
WIDTHS = (64, 8, 16, 24)
# Kinds of outputs: the logits of the classifier, and the map of every stage.
LOGITS, MAPS = 'logits', ('map1', 'map2', 'map3', 'map4')


def read_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a fixture's weights in timm's names."""
    return {key: tuple(shape) for key, shape in json.loads((FIXTURES / f'{name}.json').read_text()).items()}


def subsampled(values: np.ndarray) -> np.ndarray:
    """What a fixture keeps of an output: all logits, of a map some channels and pixels."""
    return values if values.ndim == 2 else values[:, ::7, ::2, ::2]
