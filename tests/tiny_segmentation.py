"""A tiny model and a tiny data set for the tests of evaluation and prediction: random, quick, of uneven sizes."""
from __future__ import annotations

import cv2
import numpy as np
import paddle
from PIL import Image

CLASSES = 4
SIZES = ((48, 64), (48, 64), (48, 64), (37, 53), (48, 64))  # (height, width)


class TinyModel(paddle.nn.Layer):
    """Two convolutions at half size, so that borders matter, and logits at the input's size; notes its inputs."""

    def __init__(self, num_classes=CLASSES, in_channels=3):
        super().__init__()
        paddle.seed(7)
        self.body = paddle.nn.Sequential(
            paddle.nn.Conv2D(in_channels, 8, 5, stride=2, padding=2), paddle.nn.BatchNorm2D(8), paddle.nn.ReLU(),
            paddle.nn.Conv2D(8, num_classes, 5, padding=2))
        self.body[0].weight.set_value(self.body[0].weight * 4)
        self.shapes = []

    def forward(self, images):
        self.shapes.append(list(images.shape))
        return [paddle.nn.functional.interpolate(self.body(images), images.shape[2:], mode='bilinear')]


def write_scenes(root, *, sizes=SIZES, label_value=None):
    """Write images of coloured noise with labels that follow the colours; returns the list file."""
    generator = np.random.default_rng(3)
    lines = []
    for index, (height, width) in enumerate(sizes):
        coarse = generator.integers(0, CLASSES, (height // 8 + 1, width // 8 + 1)).astype('uint8')
        label = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)
        image = label[..., None] * np.array([50, 20, 70]) + generator.integers(0, 60, (height, width, 3))
        label = np.where(generator.random(label.shape) < 0.05, 255, label).astype('uint8')
        if label_value is not None:
            label[0, 0] = label_value
        cv2.imwrite(str(root / f'image_{index}.png'), image.astype('uint8'))
        Image.fromarray(label).save(root / f'label_{index}.png')
        lines.append(f'image_{index}.png label_{index}.png')
    list_path = root / 'val.txt'
    list_path.write_text('\n'.join(lines) + '\n')
    return list_path


def make_dataset(root, *transforms, num_classes=CLASSES):
    """PaddleSeg's own `Dataset` over what :func:`write_scenes` wrote."""
    from paddleseg.datasets import Dataset
    from paddleseg.transforms import Normalize
    return Dataset(mode='val', dataset_root=str(root), transforms=[*transforms, Normalize()], num_classes=num_classes,
                   val_path=str(root / 'val.txt'))
