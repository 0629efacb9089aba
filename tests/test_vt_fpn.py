"""VTFPN: the whole beside NumPy in every variant, what it promises over our backbones and PaddleSeg's, its errors."""
from __future__ import annotations

import re

import numpy as np
import numpy_heads
import paddle
import pytest
import visual_transformers_numpy as oracle
from cases import arrays_of, images, relative_difference, visible
from paddle import nn

from paddleseg_ext.backbones import resnet, twins, xcit
from paddleseg_ext.backbones.resnet import ResNet
from paddleseg_ext.backbones.vt_resnet import VTResNet
from paddleseg_ext.errors import UserError
from paddleseg_ext.models.vt_fpn import VTFPN, TokenPyramid
from paddleseg_ext.registry import components

CLASSES = 5
TOKENS = {'tokens': 5, 'token_channels': 24, 'groups': 2}
ARGUMENTS = {'fpn_channels': 8, 'dropout': 0., **TOKENS}
#                              expansion depths        widths
BASIC = resnet.Variant(1,               (1, 1, 2, 1), (4, 6, 8, 12))
BOTTLENECK = resnet.Variant(4,          (1, 1, 1, 2), (4, 4, 6, 8))
#                      channels         heads         mlp ratios    depths        local
SVT = twins.Variant((8, 16, 16, 24), (1, 2, 2, 3), (2, 2, 2, 2), (1, 1, 1, 1), True)
#                  channels depth heads scale tokens_norm patch
XCIT = xcit.Variant(16,     4,    2,    1.,   True,       16)
BACKBONES = {
    'ResNet': (lambda **arguments: ResNet(BASIC, **arguments), 32),
    'VT-ResNet': (lambda **arguments: VTResNet(BOTTLENECK, **TOKENS, **arguments), 16),
    'VT-ResNet, filter': (lambda **arguments: VTResNet(BASIC, tokenizer='filter', **TOKENS, **arguments), 16),
    'Twins': (lambda **arguments: twins.Twins(SVT, norm_after_stage=True, **arguments), 32),
    'XCiT': (lambda **arguments: xcit.XCiT(XCIT, **arguments), 32),
}
SIZES = ((48, 64), (47, 33))

over_relations = pytest.mark.parametrize('relation', ['transformer', 'convolution', 'none'])
over_positions = pytest.mark.parametrize('position_encoding', [True, False], ids=['positions', 'no positions'])
over_backbones = pytest.mark.parametrize('name', BACKBONES)
over_sizes = pytest.mark.parametrize('size', SIZES, ids=lambda size: f'{size[0]}x{size[1]}')


class Pyramid(nn.Layer):
    """A stand-in backbone: stride-2 convolutions, whose maps are as large as rounding up makes them."""

    def __init__(self, feat_channels=(6, 8, 10, 12)):
        super().__init__()
        self.feat_channels = list(feat_channels)
        self.feat_strides = [4 * 2**level for level in range(len(feat_channels))]
        inputs = (3, 6, *feat_channels)
        self.convolutions = nn.LayerList([nn.Conv2D(before, after, 3, stride=2, padding=1)
                                          for before, after in zip(inputs, (6, *feat_channels))])

    def forward(self, x):
        maps = []
        for convolution in self.convolutions:
            x = nn.functional.relu(convolution(x))
            maps.append(x)
        return maps[1:]


def build(backbone=None, **arguments) -> VTFPN:
    """A narrow model in evaluation mode whose every weight shows."""
    paddle.seed(0)
    return visible(VTFPN(CLASSES, backbone or Pyramid(), **{**ARGUMENTS, **arguments}))[0]


def random_maps(sizes, channels=(6, 8, 10, 12)) -> list:
    generator = np.random.default_rng(5)
    return [generator.normal(size=(2, count, *size)).astype('float32') for count, size in zip(channels, sizes)]


@paddle.no_grad()
def decoded(model, maps) -> np.ndarray:
    return model.decode([paddle.to_tensor(x) for x in maps]).numpy()


# Beside NumPy

MAPS = {'halves':        ((16, 24), (8, 12), (4, 6), (2, 3)),
        'rounded up':    ((17, 23), (9, 12), (5, 6), (3, 3)),
        'a single cell': ((5, 3), (3, 2), (2, 1), (1, 1)),
        'equal':         ((9, 7), (5, 4), (5, 4), (5, 4))}


@over_relations
@over_positions
@pytest.mark.parametrize('sizes', MAPS.values(), ids=MAPS)
def test_logits_are_the_definitions(relation, position_encoding, sizes):
    model = build(relation=relation, position_encoding=position_encoding)
    maps = random_maps(sizes)
    expected = oracle.vt_fpn(maps, arrays_of(model), groups=2, relation_name=relation)
    assert expected.std() > 0.1, 'logits that hardly vary would agree too easily'
    assert relative_difference(decoded(model, maps), expected) <= 1e-5


@pytest.mark.parametrize('arguments', [{'tokens': 8, 'token_channels': 64, 'groups': 4, 'fpn_channels': 12},
                                       {'tokens': 2, 'token_channels': 6, 'groups': 1, 'fpn_channels': 7}])
def test_other_sizes_are_the_definitions(arguments):
    model, maps = build(**arguments), random_maps(MAPS['rounded up'])
    expected = oracle.vt_fpn(maps, arrays_of(model), groups=arguments['groups'], relation_name='transformer')
    assert relative_difference(decoded(model, maps), expected) <= 1e-5


@pytest.mark.parametrize('levels', [1, 2, 3])
def test_pyramids_of_fewer_levels(levels):
    model = build(Pyramid((6, 8, 10, 12)[:levels]))
    maps = random_maps(MAPS['rounded up'][:levels])
    expected = oracle.vt_fpn(maps, arrays_of(model), groups=2, relation_name='transformer')
    assert relative_difference(decoded(model, maps), expected) <= 1e-5


def backbone_maps(name, model, maps):
    """The maps of the oracle's backbone with the weights of the model's."""
    weights = {key[len('backbone.'):]: value for key, value in arrays_of(model).items() if key.startswith('backbone.')}
    if name == 'ResNet':
        return oracle.resnet_maps(maps, weights)
    tokenizer = 'filter' if 'filter' in name else 'recurrent'
    return oracle.backbone(maps, weights, groups=2, tokenizer=tokenizer, relation_name='transformer')


@pytest.mark.parametrize('name', ['ResNet', 'VT-ResNet', 'VT-ResNet, filter'])
@over_relations
@over_positions
@over_sizes
def test_segmentors_are_the_definitions(name, relation, position_encoding, size):
    model = build(BACKBONES[name][0](), relation=relation, position_encoding=position_encoding)
    maps = backbone_maps(name, model, images(2, size))
    expected = oracle.vt_fpn(maps, arrays_of(model), groups=2, relation_name=relation)
    with paddle.no_grad():
        [logits] = model(paddle.to_tensor(images(2, size)))
    assert relative_difference(logits.numpy(), numpy_heads.bilinear(expected, size)) <= 1e-5


def test_every_weight_of_the_head_shows_in_the_comparison():
    model, maps = build(), random_maps(MAPS['rounded up'])
    before = decoded(model, maps)
    for name, tensor in model.state_dict().items():
        if name.startswith(('head.', 'neck.')):
            value = tensor.numpy().copy()
            tensor.set_value(value * 1.5 + 0.1)
            assert relative_difference(decoded(model, maps), before) > 1e-4, name
            tensor.set_value(value)


@pytest.mark.parametrize('changed', range(4))
def test_every_level_takes_from_every_other(changed):
    """What the tokens carry: a level that changes shows in the maps of all others."""
    model, maps = build(), random_maps(MAPS['rounded up'])
    with paddle.no_grad():
        before = model.neck([paddle.to_tensor(x) for x in maps])
        maps[changed] = maps[changed] + 1.
        after = model.neck([paddle.to_tensor(x) for x in maps])
    for old, new in zip(before, after):
        assert relative_difference(new.numpy(), old.numpy()) > 1e-4


# What it says of itself

def test_names_of_the_weights():
    names = {name for name in build().state_dict() if not name.startswith('backbone.')}
    norm = [f'bn.{each}' for each in ('weight', 'bias', '_mean', '_variance')]
    level = [f'laterals.{{}}.{each}' for each in ('conv.weight', *norm)]
    level += [f'tokenizers.{{}}.{each}.weight' for each in ('filters', 'pooling.value', 'pooling.positions.weights')]
    level += [f'projectors.{{}}.{each}.weight' for each in ('query', 'key', 'value')]
    expected = {f'neck.{each.format(index)}' for index in range(4) for each in level}
    expected |= {f'neck.relation.{each}.weight' for each in ('key', 'query', 'fc1', 'fc2')}
    expected |= {'neck.norm.weight', 'head.classifier.weight', 'head.classifier.bias'}
    expected |= {f'head.bns.{index}.{each[3:]}' for index in range(4) for each in norm}
    assert names == expected


def test_widths_by_default_are_the_papers():
    with paddle.LazyGuard():
        model = VTFPN(CLASSES, Pyramid())
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for level, channels in enumerate((6, 8, 10, 12)):
        assert shapes[f'neck.laterals.{level}.conv.weight'] == (256, channels, 1, 1)
        assert shapes[f'neck.tokenizers.{level}.filters.weight'] == (8, 256, 1, 1)
        assert shapes[f'neck.tokenizers.{level}.pooling.value.weight'] == (1024 - 64, 256 // 16, 1)
    assert shapes['neck.relation.fc1.weight'] == (1024, 1024, 1)
    assert shapes['neck.relation.key.weight'] == (512, 64, 1)
    assert shapes['head.classifier.weight'] == (CLASSES, 256, 1, 1)


@pytest.mark.parametrize('share', [0.9, 0.5])
def test_batch_norm_keeps_that_share(share):
    model = build() if share == 0.9 else build(bn_momentum=share)
    norms = [layer for layer in model.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    assert len(norms) == 8 and {norm._momentum for norm in norms} == {share}


def test_batch_norms_become_synchronous():
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(build())
    assert sum(isinstance(layer, nn.SyncBatchNorm) for layer in converted.sublayers()) == 8


def test_one_output_in_training_and_in_evaluation():
    model = build()
    for each in (model.eval, model.train):
        each()
        assert len(model(paddle.to_tensor(images(2, (64, 64))))) == 1 == VTFPN.training_outputs(ARGUMENTS)


@over_backbones
def test_minimum_is_the_backbones(name):
    make, minimum = BACKBONES[name]
    model = build(make())
    assert model.minimum_size == minimum
    model(paddle.to_tensor(images(1, (minimum, minimum + 1))))
    with pytest.raises(ValueError, match=f'VTFPN over .* needs images of at least {minimum}×{minimum} pixels'):
        model(paddle.to_tensor(images(1, (minimum - 1, 64))))


# Training

# Biases that reach nothing but a batch norm, which takes away what is added everywhere alike.
WITHOUT_GRADIENT = {
    'Twins': {'backbone.stages.3.norm.bias'},
    'XCiT': {'backbone.pyramid.0.up1.bias', 'backbone.pyramid.0.up2.bias', 'backbone.pyramid.1.up1.bias',
             'backbone.blocks.3.mlp.fc2.bias'},
}


@over_backbones
@over_relations
def test_gradients_reach_every_parameter(name, relation):
    model = build(BACKBONES[name][0](in_channels=4), relation=relation)
    model.to(dtype='float64')  # in which no gradient is nothing but rounding
    model.train()
    maps = paddle.to_tensor(images(2, (64, 96), channels=4).astype('float64'))
    (model(maps)[0]**2).mean().backward()
    largest = {key: np.abs(parameter.grad.numpy()).max() for key, parameter in model.named_parameters()
               if not parameter.stop_gradient}
    assert np.isfinite(list(largest.values())).all()
    assert {key for key, value in largest.items() if value < 1e-9} == WITHOUT_GRADIENT.get(name, set())


def step(model, size=(64, 64)) -> set:
    """The names of the weights that one step of training leaves as they were."""
    model.train()
    optimizer = paddle.optimizer.AdamW(1e-2, parameters=model.parameters())
    labels = paddle.to_tensor(np.random.default_rng(0).integers(0, CLASSES, (2, *size)))
    before = arrays_of(model)
    [logits] = model(paddle.to_tensor(images(2, size)))
    loss = components('loss')['CrossEntropyLoss']()(logits, labels)
    assert np.isfinite(loss.numpy()) and logits.shape == [2, CLASSES, *size]
    loss.backward()
    optimizer.step()
    return {name for name, value in arrays_of(model).items() if np.array_equal(value, before[name])}


@over_backbones
def test_a_step_over_our_backbones(name):
    assert not step(build(BACKBONES[name][0]()))


@pytest.mark.parametrize('name, arguments, strides', [
    ('ResNet50_vd', {}, [4, 8, 8, 8]),
    ('ResNet50_vd', {'output_stride': None}, [4, 8, 16, 32]),
    ('ResNet101_vd', {'output_stride': 32}, [4, 8, 16, 32]),
    ('MixVisionTransformer_B0', {}, [4, 8, 16, 32]),
])
def test_a_step_over_backbones_of_paddleseg(name, arguments, strides):
    paddle.seed(0)
    backbone = components('backbone')[name](**arguments)
    model = VTFPN(CLASSES, backbone, feat_strides=strides, **ARGUMENTS)
    same = step(model)
    assert not {name for name in same if not name.startswith('backbone.')}
    assert len(same) < len(model.state_dict()) / 20


def test_strides_of_paddlesegs_resnet_have_to_be_said():
    with pytest.raises(UserError, match='ResNet_vd does not say the strides of its 4 maps: write feat_strides'):
        VTFPN(CLASSES, components('backbone')['ResNet18_vd'](), **ARGUMENTS)


# Whole segmentors from a file

def test_pretrained_whole(tmp_path):
    trained = build()
    path = str(tmp_path / 'trained.pdparams')
    paddle.save(trained.state_dict(), path)
    model = VTFPN(CLASSES, Pyramid(), **ARGUMENTS, pretrained=path)
    for name, value in arrays_of(model).items():
        np.testing.assert_array_equal(value, trained.state_dict()[name].numpy(), err_msg=name)
    with pytest.raises(UserError, match=r'head\.classifier\.weight \[5, '):
        VTFPN(CLASSES + 1, Pyramid(), **ARGUMENTS, pretrained=path)
    VTFPN(CLASSES + 1, Pyramid(), **ARGUMENTS, pretrained=path, pretrained_allow=['*head.classifier.*'])


# What is refused

@pytest.mark.parametrize('error, arguments, text', [
    (UserError, {'fpn_channels': 0}, 'fpn_channels must be a whole number of at least 1, but is 0.'),
    (UserError, {'fpn_channels': 8.}, 'fpn_channels must be a whole number of at least 1, but is 8.0.'),
    (UserError, {'feat_strides': [4, 8]}, 'feat_strides has 2 entries, [4, 8], but Pyramid gives 4 maps; write one a '
                                          'map.'),
    (UserError, {'feat_strides': [8, 4, 16, 32]}, 'feat_strides must not fall, finest map first'),
    (ValueError, {'tokens': 1}, 'tokens must be a whole number of at least 2, but is 1.'),
    (ValueError, {'token_channels': 1.5}, 'token_channels must be a whole number of at least 2, but is 1.5.'),
    (ValueError, {'groups': 0}, 'groups must be a whole number of at least 1, but is 0.'),
    (ValueError, {'groups': 3}, 'groups must divide fpn_channels (8) and half of token_channels (24), but is 3; choose '
                                'a common divisor of both, 1 for no groups.'),
    (ValueError, {'relation': 'mlp'}, "relation must be one of transformer, convolution, none, but is 'mlp'."),
    (ValueError, {'dropout': 1.}, 'dropout must lie in [0, 1), but is 1.0.'),
])
def test_arguments_are_refused_by_rule(error, arguments, text):
    with pytest.raises(error, match=re.escape(text)):
        build(**arguments)


def test_classes_backbones_and_wrong_strides_are_refused_by_rule():
    with pytest.raises(UserError, match='num_classes must be a whole number of at least 1, but is 0.'):
        VTFPN(0, Pyramid(), **ARGUMENTS)
    with pytest.raises(UserError, match='ReLU does not say the channels of its maps'):
        VTFPN(CLASSES, nn.ReLU(), **ARGUMENTS)
    model = build(feat_strides=[4, 8, 8, 8])
    with pytest.raises(UserError, match=re.escape('feat_strides is [4, 8, 8, 8], but Pyramid gives maps of strides')):
        model(paddle.to_tensor(images(1, (64, 64))))


def test_the_neck_alone():
    """[N, feat_channels[i], hi, wi] to [N, C, hi, wi]."""
    neck = TokenPyramid((6, 8), 12, relation='transformer', position_encoding=True, bn_momentum=0.9, **TOKENS)
    maps = [paddle.to_tensor(x) for x in random_maps(((5, 7), (3, 4)))]
    assert [x.shape for x in neck(maps)] == [[2, 12, 5, 7], [2, 12, 3, 4]]
