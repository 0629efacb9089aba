"""Checkpoints of Twins at reduced widths under the names of every source, as dictionaries of arrays.

timm's and mmsegmentation's names are those that their own code gave (`parity/make_fixtures.py`). The others' are made
from them as their sources say: the authors and PaddleClas name like timm, PaddleClas keeps linear weights as [in, out],
and the authors' segmentors have mmsegmentation's heads over a backbone that still carries its classifier.
"""
from __future__ import annotations

import dataclasses

import numpy as np
from twins_sources import NUM_CLASSES, REDUCED_CHANNELS, REDUCED_HEADS, read_shapes, source_weights

from paddleseg_ext.backbones.twins import VARIANTS, Twins, TwinsClassifier
from paddleseg_ext.models.semantic_fpn import SemanticFPN
from paddleseg_ext.models.upernet import UPerNetMMSeg

__all__ = ['authors_segmentor', 'backbone', 'classifier', 'mmsegmentation', 'mmsegmentation_imagenet', 'paddleclas',
           'segmentor', 'timm']


def timm(name: str) -> dict[str, np.ndarray]:
    return source_weights(read_shapes('timm', name))


def paddleclas(name: str) -> dict[str, np.ndarray]:
    return {key: np.ascontiguousarray(array.T) if array.ndim == 2 else array for key, array in timm(name).items()}


def mmsegmentation(name: str, head: str = 'SemanticFPN') -> dict[str, np.ndarray]:
    return source_weights(read_shapes('mmsegmentation', f'{name}_{head}'))


def authors_segmentor(name: str, head: str = 'SemanticFPN') -> dict[str, np.ndarray]:
    heads = {key: array for key, array in mmsegmentation(name, head).items()
             if not key.startswith('backbone.') or key.startswith('backbone.norm_list.')}
    return {**{'backbone.' + key: array for key, array in timm(name).items()}, **heads}


def mmsegmentation_imagenet(name: str) -> dict[str, np.ndarray]:
    """As its converter leaves the authors' classifiers: no head, but the classifier's norm."""
    backbone = {key[len('backbone.'):]: array for key, array in mmsegmentation(name).items()
                if key.startswith('backbone.') and 'norm_list' not in key}
    return {**backbone, 'norm.weight': timm(name)['norm.weight'], 'norm.bias': timm(name)['norm.bias']}


def _reduced(name: str):
    return dataclasses.replace(VARIANTS[name], channels=REDUCED_CHANNELS[name])


def backbone(name: str, **arguments) -> Twins:
    return Twins(_reduced(name), norm_after_stage=VARIANTS[name].local, **arguments)


def classifier(name: str, **arguments) -> TwinsClassifier:
    return TwinsClassifier(_reduced(name), num_classes=NUM_CLASSES, **arguments)


def segmentor(name: str, head: str = 'SemanticFPN', *, num_classes: int = NUM_CLASSES, **arguments):
    widths = {'SemanticFPN': ('fpn_channels', 'head_channels'), 'UPerNetMMSeg': ('channels', 'aux_channels')}[head]
    model = {'SemanticFPN': SemanticFPN, 'UPerNetMMSeg': UPerNetMMSeg}[head]
    return model(num_classes, backbone(name), **{key: REDUCED_HEADS[key] for key in widths}, **arguments)
