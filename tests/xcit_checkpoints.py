"""Checkpoints of XCiT at reduced widths under the names of every source, as dictionaries of arrays.

timm's names are those that its own code gave (`parity/make_xcit_fixtures.py`). The others' are made from them as their
sources say: the authors call the positions `pos_embeder` and join q, k and v of class attention, their segmentors have
no classifier but `fpn1` and `fpn2` and mmsegmentation's heads, DINO's backbones have no head, and PaddleViT keeps
linear weights as [in, out] and Paddle's names of statistics.
"""
from __future__ import annotations

import dataclasses

import numpy as np
from twins_sources import read_shapes as read_segmentor_shapes
from xcit_sources import NUM_CLASSES, REDUCED, REDUCED_HEADS, read_shapes, source_weights

from paddleseg_ext.backbones.xcit import VARIANTS, Variant, XCiT, XCiTClassifier
from paddleseg_ext.models.semantic_fpn import SemanticFPN
from paddleseg_ext.models.upernet import UPerNetMMSeg

__all__ = ['authors', 'authors_segmentor', 'backbone', 'classifier', 'dino', 'dino_training', 'paddlevit', 'reduced',
           'segmentor', 'timm']

NOT_OF_SEGMENTORS = ('cls_token', 'cls_attn_blocks.', 'norm.', 'head.')


def timm(name: str) -> dict[str, np.ndarray]:
    return source_weights(read_shapes(name))


def authors(name: str) -> dict[str, np.ndarray]:
    theirs, joined = timm(name), {}
    for key, array in theirs.items():
        if '.attn.q.' in key:
            parts = [theirs[key.replace('.attn.q.', f'.attn.{letter}.')] for letter in 'qkv']
            joined[key.replace('.attn.q.', '.attn.qkv.')] = np.concatenate(parts)
        elif '.attn.k.' not in key and '.attn.v.' not in key:
            joined[key.replace('pos_embed.', 'pos_embeder.')] = array
    return joined


def dino(name: str) -> dict[str, np.ndarray]:
    return {key: array for key, array in authors(name).items() if not key.startswith('head.')}


def dino_training(name: str) -> dict[str, np.ndarray]:
    head = {f'head.{key}': np.zeros(2, 'float32') for key in ('mlp.0.weight', 'last_layer.weight_g',
                                                              'last_layer.weight_v')}
    return {**{'backbone.' + key: array for key, array in dino(name).items()}, **head}


def paddlevit(name: str) -> dict[str, np.ndarray]:
    weights = {key: np.ascontiguousarray(array.T) if array.ndim == 2 else array for key, array in authors(name).items()
               if not key.endswith('num_batches_tracked')}
    return {key.replace('running_mean', '_mean').replace('running_var', '_variance'): array
            for key, array in weights.items()}


def authors_segmentor(name: str, head: str = 'SemanticFPN') -> dict[str, np.ndarray]:
    """Heads by mmsegmentation's own names and shapes, of a segmentor over Twins, for maps of another width."""
    width, patch = REDUCED[name], VARIANTS[name].patch
    shapes = {'backbone.' + key: array.shape for key, array in authors(name).items()
              if not key.startswith(NOT_OF_SEGMENTORS)}
    deconvolutions = ('fpn1.0', 'fpn1.3', 'fpn2.0') if patch == 16 else ('fpn1.0',)
    for part in deconvolutions:
        shapes.update({f'backbone.{part}.weight': (width, width, 2, 2), f'backbone.{part}.bias': (width,)})
    if patch == 16:
        shapes.update({f'backbone.fpn1.1.{part}': (width,) for part in ('weight', 'bias', 'running_mean',
                                                                        'running_var')})
        shapes['backbone.fpn1.1.num_batches_tracked'] = ()
    theirs = read_segmentor_shapes('mmsegmentation', f'Twins_SVT_S_{head}')
    shapes.update({key: _over(width, key, shape) for key, shape in theirs.items() if not key.startswith('backbone.')})
    return source_weights(shapes)


def _over(width: int, key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a head's weight where every map has `width` channels."""
    if key.startswith(('neck.lateral_convs.', 'decode_head.lateral_convs.', 'decode_head.psp_modules.',
                       'auxiliary_head.convs.0.')) and key.endswith('conv.weight'):
        return (shape[0], width, *shape[2:])
    if key == 'decode_head.bottleneck.conv.weight':
        return (shape[0], width + 4 * REDUCED_HEADS['channels'], *shape[2:])
    return shape


def reduced(name: str) -> Variant:
    return dataclasses.replace(VARIANTS[name], channels=REDUCED[name])


def backbone(name: str, **arguments) -> XCiT:
    return XCiT(reduced(name), **arguments)


def classifier(name: str, **arguments) -> XCiTClassifier:
    return XCiTClassifier(reduced(name), num_classes=NUM_CLASSES, **arguments)


def segmentor(name: str, head: str = 'SemanticFPN', **arguments):
    widths = {'SemanticFPN': ('fpn_channels', 'head_channels'), 'UPerNetMMSeg': ('channels', 'aux_channels')}[head]
    model = {'SemanticFPN': SemanticFPN, 'UPerNetMMSeg': UPerNetMMSeg}[head]
    return model(NUM_CLASSES, backbone(name), **{key: REDUCED_HEADS[key] for key in widths}, **arguments)
