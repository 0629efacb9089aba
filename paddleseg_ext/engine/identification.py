"""Builds the model that a checkpoint belongs to, from the names and shapes in it, where no configuration tells."""
from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from paddle import nn

from paddleseg_ext.backbones.resnet import ResNet
from paddleseg_ext.backbones.twins import Twins
from paddleseg_ext.backbones.vt_resnet import VTResNet
from paddleseg_ext.backbones.xcit import XCiT
from paddleseg_ext.checkpoints.formats import recognise
from paddleseg_ext.checkpoints.pretrained import BACKBONE, describe, translation_of
from paddleseg_ext.checkpoints.reading import Weights
from paddleseg_ext.components import create_classifier
from paddleseg_ext.errors import UserError
from paddleseg_ext.registry import components

__all__ = ['Identified', 'identify']

Shapes = Mapping[str, tuple]


@dataclass(frozen=True)
class Head:
    """A segmentor over a backbone.

    Attributes:
        name: registered.
        mark: a weight that it alone has.
        widths: arguments that are the number of output channels of a weight.
        may_have_auxiliary: whether there is an auxiliary head, or `use_aux_head: false` to say that there is none.
        tokenizer: beginning of the names of its first filter-based tokenizer, None where it has none.
        relation: that of what stands between its tokens.
    """

    name: str
    mark: str
    widths: tuple[tuple[str, str], ...]
    may_have_auxiliary: bool = True
    tokenizer: str | None = None
    relation: str | None = None


#        name               mark                          widths
HEADS = (
    Head('SemanticFPN',     'neck.laterals.0.weight',     (('fpn_channels', 'neck.laterals.0.weight'),
                                                           ('head_channels', 'head.scales.0.0.conv.weight')),
         may_have_auxiliary=False),
    Head('UPerNetMMSeg',    'head.pools.0.conv.weight',   (('channels', 'head.bottleneck.conv.weight'),)),
    Head('LinearFusionSeg', 'head.projections.0.weight',  (('channels', 'head.projections.0.weight'),)),
    Head('VTFPN',           'neck.tokenizers.0.filters.weight', (('fpn_channels', 'neck.laterals.0.conv.weight'),),
         may_have_auxiliary=False, tokenizer='neck.tokenizers.0', relation='neck.relation'),
)
# Each gives the registered name of the backbone with given names and shapes, or None.
BACKBONES = (Twins.identify, XCiT.identify, VTResNet.identify, ResNet.identify)
FIRST_CONVOLUTIONS = (Twins.first_convolution, XCiT.first_convolution, VTResNet.first_convolution,
                      ResNet.first_convolution)


@dataclass
class Identified:
    """What a checkpoint belongs to.

    Attributes:
        model: of its own kind: a segmentor, a classifier or a backbone, with initial weights.
        title: for people.
        tree: the lines of YAML that build it, without its weights; of a classifier those of its backbone.
        takes_weights: the part of the tree whose `pretrained` the weights are.
    """

    model: nn.Layer
    title: str
    tree: dict
    takes_weights: dict = field(repr=False)


def identify(weights: Weights, source: str) -> Identified:
    """Build what `weights` belong to.

    Raises:
        UserError: they are of no format, or of no variant of ours.
    """
    form = recognise(weights.arrays, weights.layout)
    if form is None:
        raise UserError(f'{source}{describe(weights)} has names of no format that is known; its first are '
                        f'{", ".join(sorted(weights.arrays)[:4])}. Where it fits a model that a YAML describes, '
                        'give that with --config.')
    shapes = {name: np.shape(array) for name, array in translation_of(weights).arrays.items()}
    if not any(name.startswith(BACKBONE) for name in shapes):
        return _rtformer(shapes, source)
    # NOTE: linear weights lie as in the source here; identification reads names and the shapes of convolutions.
    own = {name[len(BACKBONE):]: shape for name, shape in shapes.items() if name.startswith(BACKBONE)}
    name = next(filter(None, (known(own) for known in BACKBONES)), None)
    if name is None:
        raise UserError(f'{source} ({form.name}) has the sizes of no registered variant; give the YAML of its model '
                        'with --config.')
    backbone = {'type': name, **dict(form.settings)}
    in_channels = next(own[weight][1] for weight in FIRST_CONVOLUTIONS if weight in own)
    if in_channels != 3:
        backbone['in_channels'] = in_channels
    backbone.update(_first_projection(own))
    backbone.update(_backbone_tokens(name, own))
    head = next((head for head in HEADS if head.mark in shapes), None)
    if head is not None:
        return _segmentor(head, shapes, backbone)
    return _backbone_or_classifier(shapes, backbone)


def _arguments(section: dict) -> dict:
    return {name: value for name, value in section.items() if name != 'type'}


def _backbone_or_classifier(shapes: Shapes, section: dict) -> Identified:
    name, arguments = section['type'], _arguments(section)
    if 'head.weight' not in shapes:
        model = components('backbone')[name](**arguments)
        return Identified(model, f'{name}, a backbone', {'backbone': section}, section)
    classes = shapes['head.bias'][0]
    model = create_classifier(name, num_classes=classes, **arguments)
    return Identified(model, f'{name}, a classifier of {classes} classes', {'backbone': section}, section)


def _segmentor(head: Head, shapes: Shapes, section: dict) -> Identified:
    backbone = components('backbone')[section['type']](**_arguments(section))
    arguments = {'num_classes': shapes['head.classifier.weight'][0],
                 **{argument: shapes[weight][0] for argument, weight in head.widths if weight in shapes}}
    if head.tokenizer is not None:
        found = _tokens(shapes, head.tokenizer, head.relation)
        arguments.update(_unusual(components('model')[head.name], found))
    if head.may_have_auxiliary:
        arguments['use_aux_head'] = 'auxiliary_head.classifier.weight' in shapes
        if arguments['use_aux_head']:
            arguments.update(_auxiliary(shapes, backbone.feat_channels))
    model = components('model')[head.name](backbone=backbone, **arguments)
    tree = {'type': head.name, **arguments, 'backbone': section}
    return Identified(model, f'{head.name} over {section["type"]}, {arguments["num_classes"]} classes', tree, tree)


def _auxiliary(shapes: Shapes, feat_channels: list[int]) -> dict:
    channels, inputs = shapes['auxiliary_head.convs.0.conv.weight'][:2]
    return {'aux_channels': channels, 'aux_index': list(feat_channels).index(inputs)}


def _first_projection(shapes: Shapes) -> dict:
    """Whether the first shortcut of a ResNet of basic blocks is projected, where that is unusual."""
    basic = 'stages.0.0.convs.2.conv.weight' not in shapes
    return {'first_projection': True} if basic and 'stages.0.0.shortcut.conv.weight' in shapes else {}


def _backbone_tokens(name: str, shapes: Shapes) -> dict:
    """The unusual arguments of a backbone's visual transformers; none where it has no such."""
    if 'transformers.0.tokenizer.filters.weight' not in shapes:
        return {}
    arguments = _tokens(shapes, 'transformers.0.tokenizer', 'transformers.0.relation')
    # The filters of a map are a convolution in two dimensions, those that are made of tokens one in one.
    second = len(_told(shapes, 'transformers.1.tokenizer.filters.weight'))
    arguments['tokenizer'] = 'filter' if second == 4 else 'recurrent'
    return _unusual(components('backbone')[name], arguments)


def _tokens(shapes: Shapes, tokenizer: str, relation: str) -> dict:
    """The arguments that the weights of a filter-based tokenizer and of the relation between its tokens tell."""
    tokens, channels = _told(shapes, f'{tokenizer}.filters.weight')[:2]
    of_values, of_a_group = _told(shapes, f'{tokenizer}.pooling.value.weight')[:2]
    of_positions = shapes.get(f'{tokenizer}.pooling.positions.weights.weight', (0,))[0]
    relations = {'transformer': f'{relation}.key.weight', 'convolution': f'{relation}.conv1.weight'}
    return {'tokens': tokens, 'token_channels': of_values + of_positions, 'groups': channels // of_a_group,
            'relation': next((name for name, mark in relations.items() if mark in shapes), 'none'),
            'position_encoding': of_positions > 0}


def _told(shapes: Shapes, name: str) -> tuple:
    if name not in shapes:
        raise UserError(f'the checkpoint lacks {name}; the file is damaged or incomplete.')
    return shapes[name]


def _unusual(make: Callable, arguments: dict) -> dict:
    """Those of the arguments that are not what `make` has without them."""
    parameters = inspect.signature(make).parameters
    return {name: value for name, value in arguments.items() if parameters[name].default != value}


def _rtformer(shapes: Shapes, source: str) -> Identified:
    if 'seghead.conv2.weight' not in shapes:
        raise UserError(f'{source} holds the trunk of an RTFormer without its head; give the YAML of a model with '
                        '--config, and --allow what starts fresh: "spp.*" "seghead.*" "seghead_extra.*".')

    def blocks(stage: int) -> int:
        return sum(f'layer{stage}.{index}.conv1.weight' in shapes for index in range(len(shapes)))

    arguments = {'num_classes': shapes['seghead.conv2.weight'][0],
                 'layer_nums': [*(blocks(stage) for stage in (1, 2, 3)), 2],
                 'base_channels': shapes['conv1.0.weight'][0],
                 'spp_channels': shapes['spp.scale0.2.weight'][0],
                 'head_channels': shapes['seghead.conv1.weight'][0] // 2,
                 'use_aux_head': 'seghead_extra.conv2.weight' in shapes,
                 'use_injection': [f'layer{stage}.down.2.weight' in shapes for stage in (4, 5)],
                 'in_channels': shapes['conv1.0.weight'][1]}
    whole, slot = shapes['layer4.attn_l.norm.weight'][0], shapes['layer4.attn_l.k'][1]
    if slot != whole:
        arguments.update(attention='mhea', num_heads=whole // slot)
    tree = {'type': 'RTFormer', **arguments}
    model = components('model')['RTFormer'](**arguments)
    return Identified(model, f'RTFormer, {arguments["num_classes"]} classes', tree, tree)
