"""ResNet and VT-ResNet: maps and classifiers beside NumPy, what the variants are, what they say, and their errors."""
from __future__ import annotations

import re

import numpy as np
import paddle
import pytest
import visual_transformers_numpy as oracle
from cases import images, relative_difference, visible

import paddleseg_ext
from paddleseg_ext.backbones import resnet, vt_resnet
from paddleseg_ext.backbones.resnet import ResNet, ResNetClassifier, Variant
from paddleseg_ext.backbones.vt_resnet import VTResNet, VTResNetClassifier
from paddleseg_ext.engine.operation_count import count_parameters
from paddleseg_ext.export.program import save_program
from paddleseg_ext.inference.paddle_runner import PaddleOptions, PaddleRunner
from paddleseg_ext.layers.drop_path import DropPath
from paddleseg_ext.layers.tokenizers import FilterTokenizer, RecurrentTokenizer
from paddleseg_ext.registry import components

# Parameters of torchvision's classifiers with 1000 classes, https://pytorch.org/vision/stable/models.html
PUBLISHED = {'ResNet18': 11_689_512, 'ResNet34': 21_797_672, 'ResNet50': 25_557_032, 'ResNet101': 44_549_160}
#                              expansion depths        widths
SMALL = {'basic':      Variant(1,        (1, 2, 1, 3), (4, 6, 8, 12)),
         'bottleneck': Variant(4,        (2, 1, 1, 2), (4, 4, 6, 8))}
TOKENS = {'tokens': 5, 'token_channels': 24, 'groups': 2}
DEFAULTS = {'tokenizer': 'recurrent', 'relation': 'transformer'}
ARGUMENTS = {
    'paper':                  {},
    'no positions':           {'position_encoding': False},
    'convolution':            {'relation': 'convolution'},
    'none, no positions':     {'relation': 'none', 'position_encoding': False},
    'filter':                 {'tokenizer': 'filter'},
    'filter, no positions':   {'tokenizer': 'filter', 'position_encoding': False},
    'filter, convolution':    {'tokenizer': 'filter', 'relation': 'convolution'},
    'filter, none':           {'tokenizer': 'filter', 'relation': 'none'},
    'more and wider tokens':  {'tokens': 8, 'token_channels': 64, 'groups': 4},
    'fewest tokens, 1 group': {'tokens': 2, 'token_channels': 6, 'groups': 1},
}
SIZES = ((32, 48), (47, 33))

over_kinds = pytest.mark.parametrize('kind', SMALL)
over_arguments = pytest.mark.parametrize('arguments', ARGUMENTS.values(), ids=ARGUMENTS)
over_sizes = pytest.mark.parametrize('size', SIZES, ids=lambda size: f'{size[0]}x{size[1]}')
over_plain = pytest.mark.parametrize('name', resnet.VARIANTS)
over_variants = pytest.mark.parametrize('name', vt_resnet.VARIANTS)


def small(kind: str = 'basic', **arguments) -> VTResNet:
    return VTResNet(SMALL[kind], **{**TOKENS, **arguments})


@paddle.no_grad()
def run(model, x: np.ndarray):
    outputs = model(paddle.to_tensor(x))
    return [each.numpy() for each in outputs] if isinstance(outputs, list) else outputs.numpy()


def defined(arguments) -> dict:
    """What the oracle has to know."""
    given = {**TOKENS, **DEFAULTS, **arguments}
    return {'groups': given['groups'], 'tokenizer': given['tokenizer'], 'relation_name': given['relation']}


# Beside NumPy

@over_kinds
@over_arguments
@over_sizes
def test_maps_are_the_definitions(kind, arguments, size):
    model, arrays = visible(small(kind, **arguments))
    maps = images(2, size)
    expected = oracle.backbone(maps, arrays, **defined(arguments))
    ours = run(model, maps)
    assert len(ours) == len(expected) == 4
    for value, wanted in zip(ours, expected):
        assert relative_difference(value, wanted) < 1e-5
    assert relative_difference(ours[3], ours[2]) > 0.1, 'the modules must show in the map'


@over_kinds
@over_arguments
@over_sizes
def test_classifiers_are_the_definitions(kind, arguments, size):
    model, arrays = visible(VTResNetClassifier(SMALL[kind], num_classes=3, **{**TOKENS, **arguments}))
    expected = oracle.classifier(images(2, size), arrays, **defined(arguments))
    assert expected.std() > 0.1
    assert relative_difference(run(model, images(2, size)), expected) < 1e-5


@over_kinds
@pytest.mark.parametrize('first_projection', [False, True])
@pytest.mark.parametrize('size', [(32, 32), (47, 66)])
def test_plain_resnets_are_the_definitions(kind, first_projection, size):
    model, arrays = visible(ResNet(SMALL[kind], first_projection=first_projection))
    assert first_projection or ('stages.0.0.shortcut.conv.weight' in arrays) == (kind != 'basic')
    expected = oracle.resnet_maps(images(2, size), arrays)
    ours = run(model, images(2, size))
    assert len(ours) == len(expected) == 4
    for value, wanted in zip(ours, expected):
        assert relative_difference(value, wanted) < 1e-5


@over_kinds
def test_plain_classifiers_are_the_definitions(kind):
    model, arrays = visible(ResNetClassifier(SMALL[kind], num_classes=3))
    backbone = {name[len('backbone.'):]: value for name, value in arrays.items() if name.startswith('backbone.')}
    means = oracle.resnet_maps(images(2, (47, 66)), backbone)[-1].mean(axis=(2, 3))
    expected = means @ arrays['head.weight'].astype('float64') + arrays['head.bias']
    assert relative_difference(run(model, images(2, (47, 66))), expected) < 1e-5


def test_every_weight_of_the_modules_shows_in_the_comparison():
    model, arrays = visible(small())
    before = run(model, images(1, (47, 33)))[-1]
    for name, tensor in model.state_dict().items():
        if name.startswith('transformers.'):
            tensor.set_value(arrays[name] * 1.5 + 0.1)
            assert relative_difference(run(model, images(1, (47, 33)))[-1], before) > 1e-4, name
            tensor.set_value(arrays[name])


# What the variants are

def bare(make, *arguments, **named):
    """A model of names and shapes without values."""
    with paddle.LazyGuard():
        return make(*arguments, **named)


def shapes_of(model) -> dict:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@over_plain
def test_plain_resnets_have_the_published_size(name):
    assert count_parameters(bare(paddleseg_ext.create_classifier, name)) == PUBLISHED[name]


@pytest.mark.parametrize('name, modules, channels', [('VT_ResNet18', 2, [64, 128, 256, 256]),
                                                     ('VT_ResNet34', 3, [64, 128, 256, 256]),
                                                     ('VT_ResNet50', 3, [256, 512, 1024, 1024]),
                                                     ('VT_ResNet101', 3, [256, 512, 1024, 1024])])
def test_variants_have_the_papers_modules(name, modules, channels):
    model = bare(components('backbone')[name])
    kinds = [type(module.tokenizer) for module in model.transformers]
    assert kinds == [FilterTokenizer] + [RecurrentTokenizer] * (modules - 1)
    assert model.feat_channels == channels and model.feat_strides == [4, 8, 16, 16]
    static = bare(components('backbone')[name], tokenizer='filter')
    assert [type(module.tokenizer) for module in static.transformers] == [FilterTokenizer] * modules
    shapes = shapes_of(model)
    assert shapes['transformers.0.tokenizer.filters.weight'] == (16, channels[3], 1, 1)
    assert shapes['transformers.1.tokenizer.filters.weight'] == (channels[3], 1024, 1)
    assert shapes['transformers.1.relation.key.weight'] == (512, 64, 1)


@over_variants
def test_stages_are_those_of_the_plain_resnet(name):
    plain, ours = (shapes_of(bare(components('backbone')[each])) for each in (name[3:], name))
    stages = {key: shape for key, shape in plain.items() if not key.startswith('stages.3.')}
    assert {key: shape for key, shape in ours.items() if not key.startswith('transformers.')} == stages


def test_modules_of_the_classifier_are_as_large_as_the_docstring_says():
    """The paper's total, 41.5 M, less what stands before the modules and behind them, is 12.9 M."""
    classifier = bare(paddleseg_ext.create_classifier, 'VT_ResNet101')
    modules = count_parameters(classifier.backbone.transformers) / 1e6
    rest = count_parameters(classifier) / 1e6 - modules
    assert f'{modules:.1f} M parameters, where the published total leaves {41.5 - rest:.1f} M' in vt_resnet.__doc__


@over_plain
def test_plain_variants_are_identified_by_names_and_shapes(name):
    shapes = shapes_of(bare(components('backbone')[name]))
    assert ResNet.identify(shapes) == name and VTResNet.identify(shapes) is None
    assert ResNet.identify({key: shape for key, shape in shapes.items() if 'stages.2.1.' not in key}) is None


@over_variants
def test_variants_are_identified_by_names_and_shapes(name):
    for arguments in ({}, {'tokens': 8, 'token_channels': 512, 'tokenizer': 'filter', 'relation': 'none'}):
        shapes = shapes_of(bare(components('backbone')[name], **arguments))
        assert VTResNet.identify(shapes) == name and ResNet.identify(shapes) is None
        assert VTResNet.identify({key: shape for key, shape in shapes.items() if 'stages.2.1.' not in key}) is None


def test_nothing_is_identified_where_no_variant_fits():
    assert VTResNet.identify({}) is None and ResNet.identify({}) is None
    assert VTResNet.identify(shapes_of(small())) is None
    assert ResNet.identify(shapes_of(ResNet(SMALL['basic']))) is None


# What it says of itself

@over_kinds
@pytest.mark.parametrize('size', [(16, 16), (17, 31), *SIZES], ids=lambda size: f'{size[0]}x{size[1]}')
def test_channels_and_strides_are_those_of_the_maps(kind, size):
    model, _ = visible(small(kind))
    maps = run(model, images(1, size))
    assert [feature.shape[1] for feature in maps] == model.feat_channels
    assert model.feat_channels == [*SMALL[kind].channels[:3], SMALL[kind].channels[2]]
    assert model.feat_strides == [4, 8, 16, 16]
    for feature, stride in zip(maps, model.feat_strides):
        assert feature.shape[2:] == tuple(-(-side // stride) for side in size)
        assert np.isfinite(feature).all()


@over_kinds
@pytest.mark.parametrize('size', [(32, 32), (33, 63)])
def test_channels_and_strides_of_plain_resnets(kind, size):
    model = ResNet(SMALL[kind])
    maps = run(model, images(1, size))
    assert [feature.shape[1] for feature in maps] == model.feat_channels == list(SMALL[kind].channels)
    assert model.feat_strides == [4, 8, 16, 32]
    for feature, stride in zip(maps, model.feat_strides):
        assert feature.shape[2:] == tuple(-(-side // stride) for side in size)


@pytest.mark.parametrize('make, name, minimum', [
    (small, 'VT-ResNet', 16),
    (lambda: VTResNetClassifier(SMALL['basic'], num_classes=2, **TOKENS), 'VT-ResNet', 16),
    (lambda: ResNet(SMALL['basic']), 'ResNet', 32),
    (lambda: ResNetClassifier(SMALL['basic'], num_classes=2), 'ResNet', 32),
], ids=['backbone', 'classifier', 'plain backbone', 'plain classifier'])
def test_small_images_are_refused_with_the_minimum(make, name, minimum):
    model = make()
    assert getattr(model, 'backbone', model).minimum_size == minimum
    for size in ((minimum - 1, 64), (64, minimum - 1)):
        text = f'{name} needs images of at least {minimum}×{minimum} pixels, but got {size[0]}×{size[1]}'
        with pytest.raises(ValueError, match=re.escape(text)):
            model(paddle.to_tensor(images(1, size)))


@over_kinds
def test_an_image_does_not_depend_on_its_batch(kind):
    model, _ = visible(small(kind))
    maps = images(3, (47, 33))
    for whole, alone in zip(run(model, maps), run(model, maps[1:2])):
        assert relative_difference(alone, whole[1:2]) < 1e-5


# Training

@over_kinds
@over_arguments
def test_gradients_reach_every_parameter(kind, arguments):
    model, _ = visible(small(kind, in_channels=4, **arguments))
    model.train()
    maps = paddle.to_tensor(images(2, (48, 64), channels=4))
    sum((feature**2).mean() for feature in model(maps)).backward()
    for name, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            assert 1e-6 < np.abs(parameter.grad.numpy()).max() < np.inf, name


@pytest.mark.parametrize('tokenizer', vt_resnet.TOKENIZERS)
def test_gradients_reach_every_parameter_of_the_classifier(tokenizer):
    model, _ = visible(VTResNetClassifier(SMALL['basic'], num_classes=3, tokenizer=tokenizer, drop_rate=0.2, **TOKENS))
    model.train()
    paddle.seed(0)
    (model(paddle.to_tensor(images(2, (48, 64))))**2).mean().backward()
    # NOTE: with the filter tokenizer alone, tokens of earlier modules reach later ones through the map.
    for name, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            assert 1e-6 < np.abs(parameter.grad.numpy()).max() < np.inf, name


def test_drop_path_rate_reaches_every_branch():
    model = small(drop_path_rate=0.3)
    rates = [layer.rate for layer in model.sublayers() if isinstance(layer, DropPath)]
    # A block each, and in each of the three modules one of the transformer and one of the projector.
    assert rates == [0.3] * (1 + 2 + 1 + 2 * 3)
    evaluated = run(visible(model)[0], images(1, (32, 32)))
    for ours, wanted in zip(evaluated, run(visible(small())[0], images(1, (32, 32)))):
        np.testing.assert_array_equal(ours, wanted)


def test_initial_values_are_torchvisions():
    paddle.seed(0)
    model = ResNet(Variant(4, (1, 1, 1, 1), (16, 32, 48, 64)))
    for name, outputs in (('stem.conv1', 16 * 49), ('stages.1.0.convs.1', 32 * 9), ('stages.2.0.shortcut', 192)):
        values = dict(model.named_parameters())[f'{name}.conv.weight'].numpy()
        assert values.std() == pytest.approx((2 / outputs)**0.5, rel=0.05), name


# Classifiers by name

def test_create_classifier():
    paddle.seed(0)
    model = paddleseg_ext.create_classifier('VT_ResNet18', num_classes=7, in_channels=4, drop_rate=0.2, tokens=4,
                                            token_channels=64, tokenizer='filter')
    assert isinstance(model, VTResNetClassifier) and model.head.weight.shape == [64, 7]
    assert model.backbone.stem.conv1.conv.weight.shape == [64, 4, 7, 7]
    assert [module.projector is None for module in model.backbone.transformers] == [False, True]
    assert model(paddle.to_tensor(images(2, (33, 40), channels=4))).shape == [2, 7]
    plain = bare(paddleseg_ext.create_classifier, 'ResNet50', num_classes=7)
    assert plain.head.weight.shape == [2048, 7]


@pytest.mark.parametrize('name', ['VT_ResNet18', 'ResNet18'])
def test_classifiers_refuse_what_they_do_not_know(name):
    with pytest.raises(TypeError, match="unexpected keyword argument 'lsa_padding'"):
        paddleseg_ext.create_classifier(name, lsa_padding='zero')
    with pytest.raises(ValueError, match=f'{name}4 is no classifier of paddleseg_ext; did you mean '):
        paddleseg_ext.create_classifier(f'{name}4')


def test_dropout_of_the_classifier_is_before_the_linear_map():
    model, _ = visible(VTResNetClassifier(SMALL['basic'], num_classes=3, drop_rate=0.5, **TOKENS))
    maps = images(1, (32, 32))
    np.testing.assert_array_equal(run(model, maps), run(model, maps))
    model.drop.train()
    paddle.seed(1)
    assert not np.array_equal(run(model, maps), run(model, maps))


# Exports

class Everything(paddle.nn.Layer):
    """A classifier whose one output is its logits and the means of the maps of a backbone."""

    def __init__(self):
        super().__init__()
        self.backbone = small('bottleneck')
        self.classifier = VTResNetClassifier(SMALL['basic'], num_classes=3, **TOKENS)

    def forward(self, x):
        means = [feature.flatten(2).mean(2) for feature in self.backbone(x)]
        return [paddle.concat([self.classifier(x), *means], axis=1)]


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """A model and its program for any batch and size."""
    model, _ = visible(Everything())
    folder = tmp_path_factory.mktemp('exported')
    return model, save_program(model, folder / 'model', output_op='none', input_shape=[-1, 3, -1, -1])


@pytest.mark.parametrize('onednn', [None, False], ids=['oneDNN where it works', 'plain'])
def test_exported_program_is_exact_at_every_batch_and_size(exported, onednn):
    model, program = exported
    runner = PaddleRunner(program, program.parent / 'model.pdiparams', PaddleOptions(cpu_threads=1, onednn=onednn))
    for size in ((16, 16), (17, 16), (47, 33), (16, 16), (96, 64)):
        for batch in (1, 3):
            maps = images(batch, size)
            assert relative_difference(runner.run(maps), run(model, maps)[0]) < 1e-5, (size, batch)
    runner.close()


class LastMap(paddle.nn.Layer):
    """The means of the map behind the modules, of which the later ones ask with ⌊tokens / 2⌋ tokens."""

    def __init__(self, tokens: int):
        super().__init__()
        self.backbone = small(tokens=tokens)

    def forward(self, x):
        return [self.backbone(x)[-1].flatten(2).mean(2)]


@pytest.mark.parametrize('tokens', [2, 3, 5])
def test_exported_program_of_few_tokens_and_positions(tokens, tmp_path):
    """Products with a side of 1 are what oneDNN has been wrong about."""
    model, _ = visible(LastMap(tokens))
    program = save_program(model, tmp_path / 'model', output_op='none', input_shape=[-1, 3, -1, -1])
    runner = PaddleRunner(program, tmp_path / 'model.pdiparams', PaddleOptions(cpu_threads=1))
    for size in ((47, 33), (16, 16), (17, 33), (16, 16)):
        for batch in (1, 3):
            maps = images(batch, size)
            assert relative_difference(runner.run(maps), run(model, maps)[0]) < 1e-5, (size, batch)
    runner.close()


# What is refused

@pytest.mark.parametrize('arguments, text', [
    ({'in_channels': 0}, 'in_channels must be a whole number of at least 1, but is 0.'),
    ({'tokenizer': 'static'}, "tokenizer must be one of recurrent, filter, but is 'static'."),
    ({'relation': 'mean'}, "relation must be one of transformer, convolution, none, but is 'mean'."),
    ({'tokens': 1}, 'tokens must be a whole number of at least 2, but is 1.'),
    ({'token_channels': 0}, 'token_channels must be a whole number of at least 2, but is 0.'),
    ({'groups': 3}, 'groups must divide the channels of the map (8) and half of token_channels (24), but is 3; choose '
                    'a common divisor of both, 1 for no groups.'),
    ({'drop_path_rate': 1.}, 'drop path rate must lie in [0, 1), but is 1'),
])
def test_arguments_are_refused_by_rule(arguments, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        small(**arguments)


def test_arguments_of_plain_resnets_are_refused_by_rule():
    with pytest.raises(ValueError, match='in_channels must be a whole number of at least 1, but is 2.5.'):
        ResNet(SMALL['basic'], in_channels=2.5)
    with pytest.raises(ValueError, match=r'drop path rate must lie in \[0, 1\), but is -0.1'):
        ResNet(SMALL['basic'], drop_path_rate=-0.1)
