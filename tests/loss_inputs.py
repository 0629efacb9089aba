"""Logits and labels for tests of losses."""
from __future__ import annotations

import numpy as np

IGNORE = 255
CLASSES = 4
WEIGHT = [1.0, 2.0, 0.5, 3.0]


def random_maps(channels=CLASSES, *, images=2, height=9, width=10, seed=0):
    """Logits [N, C, H, W] float32 and class ids [N, H, W] with a strip of ignored pixels, as numpy arrays."""
    random = np.random.RandomState(seed)
    logit = random.randn(images, channels, height, width).astype('float32')
    label = random.randint(0, max(channels, 2), (images, height, width))
    label[0, :2] = IGNORE
    return logit, label
