"""Checkpoints of ResNet at reduced widths under the names of every source, as dictionaries of arrays.

timm's names are those that its own code gave (`parity/make_resnet_fixtures.py`); torchvision has the same. The others'
are made from them as their sources say: paddle.vision keeps linear weights as [in, out] and Paddle's names of
statistics, PaddleClas numbers the blocks of all stages through, and before that it gave each a letter.
"""
from __future__ import annotations

import dataclasses
import re

import numpy as np
import paddle
from resnet_sources import NUM_CLASSES, REDUCED_HEADS, WIDTHS, read_shapes, source_weights
from safetensors.numpy import save_file
from twins_sources import read_shapes as read_segmentor_shapes

from paddleseg_ext.backbones import resnet, vt_resnet
from paddleseg_ext.checkpoints.reading import Weights
from paddleseg_ext.models.semantic_fpn import SemanticFPN
from paddleseg_ext.models.upernet import UPerNetMMSeg
from paddleseg_ext.models.vt_fpn import VTFPN

__all__ = ['BASIC', 'BOTTLENECK', 'DEEP', 'FRESH', 'SOURCES', 'TOKENS', 'UNUSED', 'assert_equal', 'backbone',
           'classifier', 'deeper_paddleclas', 'early_paddleclas', 'mmsegmentation', 'paddle_file', 'paddleclas',
           'reduced', 'segmentor', 'timm', 'torch_file', 'weights']

BASIC, BOTTLENECK, DEEP = 'ResNet18', 'ResNet50', 'ResNet101'
UNUSED = 'not used, because visual transformers take its place: '
FRESH = 'fresh, because ResNets have no visual transformers'
# Arguments of visual transformers at the reduced widths.
TOKENS = {'tokens': 4, 'token_channels': 16, 'groups': 4}


def timm(name: str) -> dict[str, np.ndarray]:
    return source_weights(read_shapes(name))


def bare(name: str) -> dict[str, np.ndarray]:
    return _without_head(timm(name))


def _without_head(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: array for key, array in weights.items() if not key.startswith('fc.')}


def paddle_vision(name: str) -> dict[str, np.ndarray]:
    weights = {key: np.ascontiguousarray(array.T) if array.ndim == 2 else array for key, array in timm(name).items()
               if not key.endswith('num_batches_tracked')}
    return {key.replace('running_mean', '_mean').replace('running_var', '_variance'): array
            for key, array in weights.items()}


def paddle_vision_bare(name: str) -> dict[str, np.ndarray]:
    return _without_head(paddle_vision(name))


def paddleclas(name: str, *, projected_first: bool = False) -> dict[str, np.ndarray]:
    """With `projected_first` as its own ResNet-18 and 34 are: the first shortcut is a convolution too."""
    depths = resnet.VARIANTS[name].depths

    def block(stage: int, index: int) -> str:
        return f'blocks.{sum(depths[:stage]) + index}'

    weights = _named(name, 'stem.0', block, ('conv', 'bn'), 'fc')
    return {**weights, **_projection('blocks.0.short', ('conv', 'bn'))} if projected_first else weights


def deeper_paddleclas() -> dict[str, np.ndarray]:
    """ResNet-152, which is none of ours: ResNet-101 with the last blocks of its stages again, as often as needed."""
    given = paddleclas(DEEP)
    weights = {key: array for key, array in given.items() if not key.startswith('blocks.')}
    number = before = 0
    for ours, theirs in zip(resnet.VARIANTS[DEEP].depths, (3, 8, 36, 3)):
        for index in range(theirs):
            block = f'blocks.{before + min(index, ours - 1)}.'
            weights.update({f'blocks.{number}.{key[len(block):]}': array for key, array in given.items()
                            if key.startswith(block)})
            number += 1
        before += ours
    return weights


def early_paddleclas(name: str, *, projected_first: bool = False) -> dict[str, np.ndarray]:
    """The same, with names of before."""
    depths = resnet.VARIANTS[name].depths

    def block(stage: int, index: int) -> str:
        numbered = depths[stage] > 20 and index > 0
        return f'res{stage + 2}' + (f'b{index}' if numbered else 'abcdefgh'[index])

    weights = _named(name, 'conv', block, ('_conv', '_batch_norm'), 'out')
    return {**weights, **_projection('res2a.short', ('_conv', '_batch_norm'))} if projected_first else weights


def _projection(shortcut: str, layers: tuple[str, str]) -> dict[str, np.ndarray]:
    conv, bn = (f'{shortcut}.{layer}' for layer in layers)
    return source_weights({f'{conv}.weight': (WIDTHS[0], WIDTHS[0], 1, 1),
                           **{f'{bn}.{part}': (WIDTHS[0],) for part in ('weight', 'bias', '_mean', '_variance')}})


def _named(name: str, stem: str, block, layers: tuple[str, str], head: str) -> dict[str, np.ndarray]:
    """paddle.vision's weights under PaddleClas's names; `block` names one by stage and index."""
    conv, bn = layers
    weights = {}
    for key, array in paddle_vision(name).items():
        found = re.fullmatch(r'layer(\d)\.(\d+)\.(.+)\.(\w+)', key)
        if found:
            place = {**{f'conv{i + 1}': f'conv{i}.{conv}' for i in range(3)},
                     **{f'bn{i + 1}': f'conv{i}.{bn}' for i in range(3)},
                     'downsample.0': f'short.{conv}', 'downsample.1': f'short.{bn}'}[found[3]]
            renamed = f'{block(int(found[1]) - 1, int(found[2]))}.{place}.{found[4]}'
        else:
            layer, part = key.split('.')
            renamed = {'conv1': f'{stem}.{conv}', 'bn1': f'{stem}.{bn}', 'fc': head}[layer] + f'.{part}'
        weights[renamed] = array
    return weights


def mmsegmentation(name: str, head: str = 'SemanticFPN') -> dict[str, np.ndarray]:
    """Heads by mmsegmentation's own names and shapes, of a segmentor over Twins, for maps of other widths."""
    channels = reduced(name).channels
    shapes = {'backbone.' + key: array.shape for key, array in bare(name).items()}
    theirs = read_segmentor_shapes('mmsegmentation', f'Twins_SVT_S_{head}')
    shapes.update({key: _over(channels, key, shape) for key, shape in theirs.items()
                   if not key.startswith('backbone.')})
    return source_weights(shapes)


def _over(channels: tuple[int, ...], key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a head's weight over maps of these channels."""
    lateral = re.fullmatch(r'(?:neck|decode_head)\.lateral_convs\.(\d)\.conv\.weight', key)
    if lateral:
        inputs = channels[int(lateral[1])]
    elif re.fullmatch(r'decode_head\.psp_modules\.\d\.1\.conv\.weight', key):
        inputs = channels[-1]
    elif key == 'decode_head.bottleneck.conv.weight':
        inputs = channels[-1] + 4 * REDUCED_HEADS['channels']
    elif key == 'auxiliary_head.convs.0.conv.weight':
        inputs = channels[2]
    else:
        return shape
    return (shape[0], inputs, *shape[2:])


def reduced(name: str) -> resnet.Variant:
    """The sizes of a ResNet, or of the ResNet in a VT-ResNet, at the widths of the fixtures."""
    return dataclasses.replace(resnet.VARIANTS[name.removeprefix('VT_')], widths=WIDTHS)


def backbone(name: str, **arguments):
    if name.startswith('VT_'):
        return vt_resnet.VTResNet(reduced(name), **{**TOKENS, **arguments})
    return resnet.ResNet(reduced(name), **arguments)


def classifier(name: str, **arguments):
    arguments = {'num_classes': NUM_CLASSES, **arguments}
    if name.startswith('VT_'):
        return vt_resnet.VTResNetClassifier(reduced(name), **{**TOKENS, **arguments})
    return resnet.ResNetClassifier(reduced(name), **arguments)


def segmentor(name: str, head: str = 'SemanticFPN', **arguments):
    model, widths = {'SemanticFPN': (SemanticFPN, ('fpn_channels', 'head_channels')),
                     'UPerNetMMSeg': (UPerNetMMSeg, ('channels', 'aux_channels')),
                     'VTFPN': (VTFPN, ('fpn_channels',))}[head]
    widths = {key: REDUCED_HEADS[key] for key in widths}
    if head == 'VTFPN':
        widths.update(TOKENS)
    return model(NUM_CLASSES, backbone(name), **widths, **arguments)


#                       names                layout    format
SOURCES = {
    'timm':               (timm,               'torch',  'ResNet classifier of torchvision or timm'),
    'bare':               (bare,               'torch',  'ResNet backbone of torchvision, timm or mmsegmentation'),
    'paddle_vision':      (paddle_vision,      'paddle', 'ResNet classifier of paddle.vision'),
    'paddle_vision_bare': (paddle_vision_bare, 'paddle', 'ResNet backbone of paddle.vision'),
    'paddleclas':         (paddleclas,         'paddle', 'ResNet-{layers} classifier of PaddleClas'),
    'early_paddleclas':   (early_paddleclas,   'paddle', 'ResNet classifier of early PaddleClas'),
    'mmsegmentation':     (mmsegmentation,     'torch',  'ResNet segmentor of mmsegmentation'),
}


def weights(source: str, name: str) -> Weights:
    make, layout, _ = SOURCES[source]
    return Weights(make(name), layout)


def torch_file(path, arrays) -> str:
    save_file(arrays, path, metadata={'format': 'pt'})
    return str(path)


def paddle_file(path, arrays) -> str:
    paddle.save({key: paddle.to_tensor(array) for key, array in arrays.items()}, str(path))
    return str(path)


def assert_equal(ours: dict, wanted: dict) -> None:
    assert set(ours) == set(wanted)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)
