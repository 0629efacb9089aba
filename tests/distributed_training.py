"""The command with a model without batch norm, for the tests of training on several ranks; dumps every rank's weights.

Run as `distributed_training.py FOLDER train …`; the weights go to FOLDER/rank_R.npz.
"""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from paddleseg_ext.cli.main import main
from paddleseg_ext.registry import register

BUILT = []


@register('model')
class PlainConvolutions(nn.Layer):
    """Two convolutions: gradients of a batch are the mean of those of its parts."""

    def __init__(self, num_classes, in_channels=3):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2D(in_channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2D(8, num_classes, 1))
        BUILT.append(self)

    def forward(self, x):
        return [self.body(x)]


if __name__ == '__main__':
    code = main(sys.argv[2:])
    target = Path(sys.argv[1]) / f'rank_{paddle.distributed.get_rank()}.npz'
    np.savez(target, **{name: value.numpy() for name, value in BUILT[0].state_dict().items()})
    sys.exit(code)
