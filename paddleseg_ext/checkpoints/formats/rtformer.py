"""Checkpoints of RTFormer: PaddleSeg's and ours have the same names.

The released ImageNet weights are the trunk, some with the classifier that they were trained with.
"""
from __future__ import annotations

from paddleseg_ext.checkpoints.rules import Drop, Format, Rename

__all__ = ['FORMATS']

CLASSIFIER = 'the classifier of the ImageNet training'

FORMATS = (
    Format('RTFormer of PaddleSeg or of paddleseg_ext', 'paddle',
           marks=('layer3_.0.conv1.weight', 'compression3.0.weight', 'layer4.attn_h.{tail}'),
           rules=(*(Drop(f'{part}.{{tail}}', CLASSIFIER) for part in ('fc', 'head', 'linear', 'classifier')),
                  Rename('{tail}', '{tail}')),
           spare=('seghead_extra.',)),
)
