"""The necks and heads of mmsegmentation's segmentors, 0.x and 1.x, under our names; any backbone stands before them.

Sources: mmseg/models/necks/fpn.py, decode_heads/fpn_head.py, uper_head.py and fcn_head.py of mmsegmentation 1.2.2.
"""
from __future__ import annotations

from paddleseg_ext.checkpoints.rules import Rename

__all__ = ['BESIDE', 'HEADS', 'OUR_BESIDE', 'SPARE']

# The most doublings in an FPN head. One stands after each convolution; it has a number of its own, and no weights.
DOUBLINGS = 8

HEADS = (
    # SemanticFPN: neck FPN, head FPNHead
    Rename('neck.lateral_convs.{i}.conv.{p}', 'neck.laterals.{i}.{p}'),
    Rename('neck.fpn_convs.{i}.conv.{p}', 'neck.outputs.{i}.{p}'),
    *(Rename(f'decode_head.scale_heads.{{i}}.{2 * step}.{{m}}.{{p}}', f'head.scales.{{i}}.{step}.{{m}}.{{p}}')
      for step in range(DOUBLINGS)),
    # UPerNetMMSeg: head UPerHead
    Rename('decode_head.psp_modules.{i}.1.{m}.{p}', 'head.pools.{i}.{m}.{p}'),
    Rename('decode_head.bottleneck.{m}.{p}', 'head.bottleneck.{m}.{p}'),
    Rename('decode_head.lateral_convs.{i}.{m}.{p}', 'head.laterals.{i}.{m}.{p}'),
    Rename('decode_head.fpn_convs.{i}.{m}.{p}', 'head.outputs.{i}.{m}.{p}'),
    Rename('decode_head.fpn_bottleneck.{m}.{p}', 'head.fuse.{m}.{p}'),
    # all
    Rename('decode_head.conv_seg.{p}', 'head.classifier.{p}'),
    # auxiliary head FCNHead
    Rename('auxiliary_head.convs.{i}.{m}.{p}', 'auxiliary_head.convs.{i}.{m}.{p}'),
    Rename('auxiliary_head.conv_seg.{p}', 'auxiliary_head.classifier.{p}'),
)
BESIDE = ('neck.', 'decode_head.', 'auxiliary_head.')
OUR_BESIDE = ('neck.', 'head.', 'auxiliary_head.')
SPARE = ('auxiliary_head.',)
