"""Train PaddleSeg's own RTFormer class through our loop.

    python -m benchmarks.train_reference --config … [flags of `paddleseg train` but --opts]

The same configuration, seed, order, augmentation and loop as `paddleseg train`; only the class differs, so the two
curves compare the models.
"""
from __future__ import annotations

import sys

from paddleseg.models.rtformer import RTFormer

from paddleseg_ext import components  # noqa: F401 NOTE: imported for what it registers.
from paddleseg_ext.cli.main import main
from paddleseg_ext.registry import register


@register('model')
class PaddleSegRTFormer(RTFormer):
    """PaddleSeg's class under a name of its own, since ours took its name in the registry."""


if __name__ == '__main__':
    sys.exit(main(['train', *sys.argv[1:], '--opts', 'model.type=PaddleSegRTFormer']))
