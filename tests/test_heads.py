"""Semantic FPN, UPerNet and linear fusion against their definitions in NumPy, and what they promise over backbones."""
from __future__ import annotations

import re

import numpy as np
import numpy_heads
import paddle
import pytest
from cases import images, relative_difference, set_visible_weights
from paddle import nn

from paddleseg_ext.config import load_config, make_builder
from paddleseg_ext.errors import UserError
from paddleseg_ext.export.program import save_program
from paddleseg_ext.inference.paddle_runner import PaddleOptions, PaddleRunner
from paddleseg_ext.layers.convolution import ConvNormReLU, PixelClassifier
from paddleseg_ext.models.fcn_head import FCNHead
from paddleseg_ext.models.linear_fusion import LinearFusionSeg
from paddleseg_ext.models.segmentor import BackboneSegmentor
from paddleseg_ext.models.semantic_fpn import SemanticFPN
from paddleseg_ext.models.upernet import UPerNetMMSeg
from paddleseg_ext.registry import components

CLASSES = 5
STRIDES = (4, 8, 16, 32)
POOLS = (1, 2, 3, 6)


class Pyramid(nn.Layer):
    """A stand-in backbone: stride-2 convolutions, whose maps are as large as rounding up makes them."""

    def __init__(self, feat_channels=(6, 8, 10, 12)):
        super().__init__()
        self.feat_channels, self.feat_strides = list(feat_channels), list(STRIDES)
        inputs = (3, 6, *feat_channels)
        self.convolutions = nn.LayerList([nn.Conv2D(before, after, 3, stride=2, padding=1)
                                          for before, after in zip(inputs, (6, *feat_channels))])

    def forward(self, x):
        maps = []
        for convolution in self.convolutions:
            x = nn.functional.gelu(convolution(x))
            maps.append(x)
        return maps[1:]


MODELS = {
    SemanticFPN: {'dropout': 0., 'fpn_channels': 7, 'head_channels': 6},
    UPerNetMMSeg: {'dropout': 0., 'channels': 7, 'aux_channels': 6},
    LinearFusionSeg: {'dropout': 0., 'channels': 7, 'use_aux_head': True, 'aux_channels': 6},
}
over_models = pytest.mark.parametrize('model_class', MODELS, ids=lambda model: model.__name__)


def build(model_class, backbone=None, **arguments):
    """A narrow model in evaluation mode whose every weight shows."""
    paddle.seed(0)
    model = model_class(CLASSES, backbone or Pyramid(), **{**MODELS[model_class], **arguments})
    set_visible_weights(model)
    model.eval()
    return model


def arrays_of(model) -> dict:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def norms_of(model) -> list:
    return [layer for layer in model.sublayers() if isinstance(layer, nn.BatchNorm2D)]


def random_maps(sizes, channels=(6, 8, 10, 12)) -> list:
    generator = np.random.default_rng(5)
    return [generator.normal(size=(2, count, *size)).astype('float32') for count, size in zip(channels, sizes)]


# Equal to the definition

MAPS = {
    'halves':         ((16, 24), (8, 12), (4, 6), (2, 3)),
    'rounded up':     ((17, 23), (9, 12), (5, 6), (3, 3)),
    'rounded down':   ((19, 11), (9, 5), (4, 2), (2, 1)),
    'a single cell':  ((5, 3), (3, 2), (2, 1), (1, 1)),
    'above the grid': ((40, 56), (20, 28), (10, 14), (9, 13)),
}
DEFINITIONS = {
    SemanticFPN: lambda maps, arrays: numpy_heads.semantic_fpn(maps, arrays, STRIDES),
    UPerNetMMSeg: lambda maps, arrays: numpy_heads.upernet(maps, arrays, POOLS),
    LinearFusionSeg: numpy_heads.linear_fusion,
}


@over_models
@pytest.mark.parametrize('sizes', MAPS.values(), ids=MAPS)
def test_logits_are_the_definitions(model_class, sizes):
    model = build(model_class)
    maps = random_maps(sizes)
    expected = DEFINITIONS[model_class](maps, arrays_of(model))
    assert expected.std() > 0.1, 'logits that hardly vary would agree too easily'
    with paddle.no_grad():
        logits = model.decode([paddle.to_tensor(x) for x in maps]).numpy()
    assert relative_difference(logits, expected) <= 1e-5


@pytest.mark.parametrize('convolutions', [1, 2])
def test_auxiliary_logits_are_the_definitions(convolutions):
    model = build(UPerNetMMSeg, aux_index=1, aux_convolutions=convolutions)
    [maps] = random_maps([(9, 6)], channels=[8])
    expected = numpy_heads.fcn_head(maps, arrays_of(model), 'auxiliary_head')
    assert relative_difference(model.auxiliary_head(paddle.to_tensor(maps)).numpy(), expected) <= 1e-5


@over_models
def test_every_weight_of_the_head_shows_in_the_comparison(model_class):
    model = build(model_class)
    maps = [paddle.to_tensor(x) for x in random_maps(MAPS['rounded up'])]
    before = model.decode(maps).numpy()
    for name, tensor in model.state_dict().items():
        if name.startswith(('head.', 'neck.')):
            value = tensor.numpy().copy()
            tensor.set_value(value * 1.5 + 0.1)
            assert relative_difference(model.decode(maps).numpy(), before) > 1e-4, name
            tensor.set_value(value)


@over_models
def test_logits_are_the_heads_at_the_size_of_the_image(model_class):
    model = build(model_class)
    x = paddle.to_tensor(images(2, (47, 66)))
    maps = [feature.numpy() for feature in model.backbone(x)]
    assert [feature.shape[2:] for feature in maps] == [(12, 17), (6, 9), (3, 5), (2, 3)]
    expected = numpy_heads.bilinear(DEFINITIONS[model_class](maps, arrays_of(model)), (47, 66))
    [logits] = model(x)
    assert relative_difference(logits.numpy(), expected) <= 1e-5
    model.train()
    for norm in norms_of(model):
        norm.eval()
    outputs = model(x)
    assert len(outputs) == model_class.training_outputs(MODELS[model_class])
    np.testing.assert_array_equal(outputs[0].numpy(), logits.numpy())
    if len(outputs) == 2:
        expected = numpy_heads.bilinear(numpy_heads.fcn_head(maps[2], arrays_of(model), 'auxiliary_head'), (47, 66))
        assert relative_difference(outputs[1].numpy(), expected) <= 1e-5


# Names and initial values

CONV_NORM = ('conv.weight', 'bn.weight', 'bn.bias', 'bn._mean', 'bn._variance')
WEIGHTS_AND_BIAS = ('weight', 'bias')


def names_of(*rows) -> set:
    return {f'{part}.{leaf}' for parts, leaves in rows for part in parts for leaf in leaves}


def numbered(name, count):
    return [f'{name}.{index}' for index in range(count)]


AUXILIARY = ((['auxiliary_head.convs.0'], CONV_NORM), (['auxiliary_head.classifier'], WEIGHTS_AND_BIAS))
NAMES = {
    SemanticFPN: names_of(
        (numbered('neck.laterals', 4) + numbered('neck.outputs', 4) + ['head.classifier'], WEIGHTS_AND_BIAS),
        (['head.scales.0.0', 'head.scales.1.0', *numbered('head.scales.2', 2), *numbered('head.scales.3', 3)],
         CONV_NORM)),
    UPerNetMMSeg: names_of(
        (numbered('head.pools', 4) + numbered('head.laterals', 3) + numbered('head.outputs', 3), CONV_NORM),
        (['head.bottleneck', 'head.fuse'], CONV_NORM), (['head.classifier'], WEIGHTS_AND_BIAS), *AUXILIARY),
    LinearFusionSeg: names_of((numbered('head.projections', 4) + ['head.classifier'], WEIGHTS_AND_BIAS),
                              (['head.fuse'], CONV_NORM), *AUXILIARY),
}


@over_models
def test_names_of_the_weights(model_class):
    names = {name for name in build(model_class).state_dict() if not name.startswith('backbone.')}
    assert names == NAMES[model_class]


def test_widths_by_default_are_the_published_ones():
    shapes = {name: tuple(tensor.shape) for name, tensor in SemanticFPN(150, Pyramid()).state_dict().items()}
    assert shapes['neck.outputs.3.weight'] == (256, 256, 3, 3)
    assert shapes['head.scales.3.2.conv.weight'] == (128, 128, 3, 3)
    shapes = {name: tuple(tensor.shape) for name, tensor in UPerNetMMSeg(150, Pyramid()).state_dict().items()}
    assert shapes['head.bottleneck.conv.weight'] == (512, 12 + 4 * 512, 3, 3)
    assert shapes['head.fuse.conv.weight'] == (512, 4 * 512, 3, 3)
    assert shapes['auxiliary_head.convs.0.conv.weight'] == (256, 10, 3, 3)
    assert shapes['auxiliary_head.classifier.weight'] == (150, 256, 1, 1)


def test_initial_values():
    paddle.seed(0)
    weight = ConvNormReLU(16, 64, kernel=3).conv.weight.numpy()
    assert weight.std() == pytest.approx((2 / (64 * 9))**0.5, rel=0.05)
    classifier = PixelClassifier(256, 64, dropout=0.)
    assert classifier.weight.numpy().std() == pytest.approx(0.01, rel=0.05) and not classifier.bias.numpy().any()
    lateral = SemanticFPN(2, Pyramid()).neck.laterals[3]
    assert np.abs(lateral.weight.numpy()).max() == pytest.approx((6 / (12 + 256))**0.5, rel=0.01)
    assert not lateral.bias.numpy().any()


def test_dropout_takes_whole_channels():
    paddle.seed(0)
    classifier = PixelClassifier(64, 64, dropout=0.25)
    classifier.weight.set_value(np.eye(64, dtype='float32')[:, :, None, None])
    x = paddle.ones([8, 64, 3, 5])
    values = classifier(x).numpy()
    assert set(np.unique(values)) == {0., np.float32(1 / 0.75)}
    assert (values == values[:, :, :1, :1]).all()
    assert (values[:, :, 0, 0] == 0).mean() == pytest.approx(0.25, abs=0.06)
    classifier.eval()
    np.testing.assert_array_equal(classifier(x).numpy(), x.numpy())


@over_models
def test_batch_norm_keeps_that_share(model_class):
    for arguments, share in (({}, 0.9), ({'bn_momentum': 0.5}, 0.5)):
        assert {norm._momentum for norm in norms_of(build(model_class, **arguments))} == {share}


# Exported

ODD = ((32, 32), (47, 33), (33, 129), (97, 65))


@pytest.fixture(scope='module', params=MODELS, ids=lambda model: model.__name__)
def exported(request, tmp_path_factory):
    """A model and the folder of its program for any batch and size."""
    model, folder = build(request.param), tmp_path_factory.mktemp('exported')
    save_program(model, folder / 'model', output_op='none', input_shape=[-1, 3, -1, -1])
    return model, folder


@pytest.mark.parametrize('onednn', [None, False], ids=['oneDNN where it works', 'plain'])
def test_exported_program_is_exact_at_odd_sizes(exported, onednn):
    model, folder = exported
    [program] = (path for path in folder.iterdir() if path.suffix in ('.json', '.pdmodel'))
    runner = PaddleRunner(program, folder / 'model.pdiparams', PaddleOptions(cpu_threads=1, onednn=onednn))
    for size in ODD:
        for batch in (1, 3):
            maps = images(batch, size)
            expected = model(paddle.to_tensor(maps))[0].numpy()
            assert relative_difference(runner.run(maps), expected) <= 1e-5, (size, batch)
    runner.close()


def test_auxiliary_head_is_not_exported(exported):
    model, folder = exported
    values = sum(tensor.size for tensor in paddle.jit.load(str(folder / 'model')).state_dict().values())
    assert values == sum(tensor.size for name, tensor in model.state_dict().items()
                         if not name.startswith('auxiliary_head'))


# Over PaddleSeg's backbones

def resnet() -> nn.Layer:
    return components('backbone')['ResNet18_vd']()


@over_models
@pytest.mark.parametrize('name, strides', [('MixVisionTransformer_B0', [4, 8, 16, 32]),
                                           ('ResNet18_vd', [4, 8, 8, 8])])
def test_a_step_over_backbones_and_losses_of_paddleseg(model_class, name, strides):
    paddle.seed(0)
    backbone = components('backbone')[name]()
    model = model_class(CLASSES, backbone, **MODELS[model_class], feat_strides=strides)
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=model.parameters())
    maps = paddle.to_tensor(images(2, (64, 64)))
    labels = paddle.to_tensor(np.random.default_rng(0).integers(0, CLASSES, (2, 64, 64)))
    before = {name: value.copy() for name, value in arrays_of(model).items()}
    for loss in ('CrossEntropyLoss', 'OhemCrossEntropyLoss'):
        criterion = components('loss')[loss]()
        total = sum(criterion(logits, labels) for logits in model(maps))
        assert np.isfinite(total.numpy())
        total.backward()
        optimizer.step()
        optimizer.clear_grad()
    same = {name for name, value in arrays_of(model).items() if np.array_equal(value, before[name])}
    assert not {name for name in same if not name.startswith('backbone.')} and len(same) < len(before) / 2


def test_backbone_without_strides_says_what_to_write():
    text = ('ResNet_vd does not say the strides of its 4 maps: write feat_strides in the model, one a map, finest '
            'first, for example feat_strides: [4, 8, 16, 32].')
    with pytest.raises(UserError, match=re.escape(text)):
        SemanticFPN(CLASSES, resnet())


def test_wrong_strides_are_noticed():
    model = SemanticFPN(CLASSES, resnet(), feat_strides=[4, 8, 16, 32])
    text = ('feat_strides is [4, 8, 16, 32], but ResNet_vd gives maps of strides [4, 8, 8, 8]: write feat_strides: '
            '[4, 8, 8, 8].')
    with pytest.raises(UserError, match=re.escape(text)):
        model(paddle.to_tensor(images(1, (64, 64))))


def test_more_maps_than_told_are_noticed():
    backbone = Pyramid()
    model = build(LinearFusionSeg, backbone)
    backbone.convolutions.append(nn.Conv2D(12, 12, 3, stride=2, padding=1))
    with pytest.raises(UserError, match=re.escape('Pyramid says the channels of 4 maps (feat_channels), but gives 5')):
        model(paddle.to_tensor(images(1, (64, 64))))


def test_equal_strides_are_not_doubled():
    model = SemanticFPN(CLASSES, resnet(), fpn_channels=6, head_channels=6, feat_strides=[4, 8, 8, 8])
    set_visible_weights(model)
    model.eval()
    maps = random_maps([(9, 7), (5, 4), (5, 4), (5, 4)], channels=model.feat_channels)
    expected = numpy_heads.semantic_fpn(maps, arrays_of(model), (4, 8, 8, 8))
    assert relative_difference(model.decode([paddle.to_tensor(x) for x in maps]).numpy(), expected) <= 1e-5


@pytest.fixture
def upernet_tree(tiny_tree):
    tiny_tree['model'] = {'type': 'UPerNetMMSeg', 'channels': 6, 'aux_channels': 6, 'feat_strides': [4, 8, 16, 32],
                          'backbone': {'type': 'MixVisionTransformer_B0'}}
    return tiny_tree


def test_model_of_a_yaml(upernet_tree, write_yaml):
    model = make_builder(load_config(write_yaml(upernet_tree))).model
    assert isinstance(model, UPerNetMMSeg) and model.num_classes == 9 and model.minimum_size == 32


def test_count_of_losses_in_a_yaml_is_checked(upernet_tree, write_yaml):
    from paddleseg_ext.config import check_config
    upernet_tree['loss']['coef'] = [1, 0.4]
    assert not check_config(load_config(write_yaml(upernet_tree)))
    upernet_tree['model']['use_aux_head'] = False
    [finding] = check_config(load_config(write_yaml(upernet_tree)))
    assert '2 weights, but UPerNetMMSeg has 1 outputs in training' in str(finding)


# Whole segmentors from a file

@over_models
def test_pretrained_whole(model_class, tmp_path):
    trained = build(model_class)
    path = str(tmp_path / 'trained.pdparams')
    paddle.save(trained.state_dict(), path)
    model = model_class(CLASSES, Pyramid(), **MODELS[model_class], pretrained=path)
    for name, value in arrays_of(model).items():
        np.testing.assert_array_equal(value, trained.state_dict()[name].numpy(), err_msg=name)
    with pytest.raises(UserError, match=r'head\.classifier\.weight \[5, '):
        model_class(CLASSES + 1, Pyramid(), **MODELS[model_class], pretrained=path)
    model = model_class(CLASSES + 1, Pyramid(), **MODELS[model_class], pretrained=path,
                        pretrained_allow=['*head.classifier.*'])
    np.testing.assert_array_equal(next(iter(model.backbone.parameters())).numpy(),
                                  next(iter(trained.backbone.parameters())).numpy())


# What is refused

def test_smaller_images_name_model_backbone_and_minimum():
    backbone = Pyramid()
    text = 'SemanticFPN over Pyramid needs images of at least 32×32 pixels, but got 31×40 (height × width)'
    with pytest.raises(ValueError, match=re.escape(text)):
        build(SemanticFPN, backbone)(paddle.ones([1, 3, 31, 40]))
    backbone.minimum_size = 48
    assert build(SemanticFPN, backbone).minimum_size == 48


@over_models
@pytest.mark.parametrize('arguments, text', [
    ({'feat_strides': [4, 8]}, 'feat_strides has 2 entries, [4, 8], but Pyramid gives 4 maps; write one a map.'),
    ({'feat_strides': [8, 4, 16, 32]}, 'feat_strides must not fall, finest map first, but is [8, 4, 16, 32].'),
    ({'feat_strides': [0, 8, 16, 32]}, 'feat_strides[0] must be a whole number of at least 1, but is 0.'),
    ({'dropout': 1.}, 'dropout must lie in [0, 1), but is 1.0.'),
])
def test_arguments_of_all_are_refused_by_rule(model_class, arguments, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build(model_class, **arguments)


@pytest.mark.parametrize('model_class, arguments, text', [
    (SemanticFPN, {'feat_strides': [4, 12, 16, 32]}, 'every stride must be a power of 2 times 4, but feat_strides is '
                                                     '[4, 12, 16, 32]'),
    (SemanticFPN, {'fpn_channels': 0}, 'fpn_channels must be a whole number of at least 1, but is 0.'),
    (UPerNetMMSeg, {'aux_index': 4}, 'aux_index is 4, but Pyramid gives 4 maps: choose one of [0, 1, 2, 3], or set '
                                     'use_aux_head to False.'),
    (UPerNetMMSeg, {'pool_sizes': [1, 0]}, 'pool_sizes must be whole numbers of at least 1, but is [1, 0].'),
    (UPerNetMMSeg, {'aux_convolutions': 0}, 'aux_convolutions must be a whole number of at least 1, but is 0.'),
    (LinearFusionSeg, {'channels': 2.5}, 'channels must be a whole number of at least 1, but is 2.5.'),
])
def test_arguments_are_refused_by_rule(model_class, arguments, text):
    with pytest.raises(UserError, match=re.escape(text)):
        build(model_class, **arguments)


def test_number_of_classes_and_backbone_are_refused_by_rule():
    with pytest.raises(UserError, match='num_classes must be a whole number of at least 1, but is 0.'):
        LinearFusionSeg(0, Pyramid())
    with pytest.raises(UserError, match='ReLU does not say the channels of its maps'):
        LinearFusionSeg(CLASSES, nn.ReLU())
    with pytest.raises(ValueError, match='needs at least one convolution, but convolutions is 0'):
        FCNHead(4, CLASSES, convolutions=0)
    with pytest.raises(NotImplementedError, match='BackboneSegmentor does not say how it decodes'):
        BackboneSegmentor(CLASSES, Pyramid())(paddle.ones([1, 3, 32, 32]))
