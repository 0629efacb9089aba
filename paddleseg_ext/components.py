"""Importing this module mends PaddleSeg (`compat`) and registers every component of ours with it."""
from paddleseg_ext import compat

compat.apply()

from paddleseg_ext.backbones import resnet, twins, vt_resnet, xcit  # noqa: E402 NOTE: what follows builds on what is mended.
from paddleseg_ext.backbones.classification import create_classifier  # noqa: E402 NOTE: as above.
from paddleseg_ext.data import camvid, cocostuff10k, scenes, transforms  # noqa: E402 NOTE: as above.
from paddleseg_ext.models import linear_fusion, rtformer, semantic_fpn, upernet, vt_fpn  # noqa: E402 NOTE: as above.

__all__ = ['camvid', 'cocostuff10k', 'create_classifier', 'linear_fusion', 'resnet', 'rtformer', 'scenes',
           'semantic_fpn', 'transforms', 'twins', 'upernet', 'vt_fpn', 'vt_resnet', 'xcit']
