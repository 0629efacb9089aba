"""`paddleseg convert` of ResNets, VT-ResNets and VTFPN: models and arguments told by names and shapes."""
from __future__ import annotations

import dataclasses
import functools
import re

import numpy as np
import paddle
import pytest
import yaml
from cases import arrays_of
from paddle.vision import models as vision
from resnet_checkpoints import (
    BASIC,
    BOTTLENECK,
    DEEP,
    FRESH,
    SOURCES,
    TOKENS,
    UNUSED,
    assert_equal,
    backbone,
    classifier,
    deeper_paddleclas,
    paddle_file,
    reduced,
    segmentor,
    torch_file,
    weights,
)
from resnet_sources import NUM_CLASSES, REDUCED_HEADS, TIMM_NAMES
from twins_sources import REDUCED_CHANNELS

from paddleseg_ext.backbones import resnet, twins, vt_resnet
from paddleseg_ext.checkpoints.pretrained import load_arrays
from paddleseg_ext.checkpoints.reading import read_weights
from paddleseg_ext.cli.main import main
from paddleseg_ext.engine import identification
from paddleseg_ext.engine.convert import convert
from paddleseg_ext.errors import UserError
from paddleseg_ext.models.linear_fusion import LinearFusionSeg
from paddleseg_ext.models.vt_fpn import VTFPN
from paddleseg_ext.registry import components


@pytest.fixture
def reduced_variants(monkeypatch):
    """The registered variants have the widths of the fixtures."""
    def make(name, original, build):
        return functools.wraps(original)(lambda **arguments: build(reduced(name), **arguments))

    def create(name, **arguments):
        build = vt_resnet.VTResNetClassifier if name.startswith('VT_') else resnet.ResNetClassifier
        return build(reduced(name), **arguments)

    backbones = {name: make(name, original, vt_resnet.VTResNet if name.startswith('VT_') else resnet.ResNet)
                 for name, original in components('backbone').items() if name.removeprefix('VT_') in TIMM_NAMES}
    monkeypatch.setattr(resnet, 'VARIANTS', {name: reduced(name) for name in TIMM_NAMES})
    monkeypatch.setattr(identification, 'create_classifier', create)
    monkeypatch.setattr(identification, 'components',
                        lambda kind: backbones if kind == 'backbone' else components(kind))


@pytest.mark.parametrize(('source', 'name'), [*((source, BASIC) for source in SOURCES if source != 'early_paddleclas'),
                                              ('timm', BOTTLENECK), ('paddleclas', DEEP), ('early_paddleclas', DEEP)])
def test_every_source_is_converted(source, name, reduced_variants, tmp_path):
    write = torch_file if SOURCES[source][1] == 'torch' else paddle_file
    report = convert(write(tmp_path / 'source', SOURCES[source][0](name)), tmp_path / 'ours.pdparams')
    kind = {'mmsegmentation': f'SemanticFPN over {name}, {NUM_CLASSES} classes', 'bare': f'{name}, a backbone',
            'paddle_vision_bare': f'{name}, a backbone'}
    assert report.model == kind.get(source, f'{name}, a classifier of {NUM_CLASSES} classes')
    assert report.used == report.total
    given = backbone(f'VT_{name}', pretrained=str(tmp_path / 'ours.pdparams'))
    direct = backbone(f'VT_{name}')
    load_arrays(direct, weights(source, name), source=source)
    np.testing.assert_array_equal(given.stages[2][1].convs[0].conv.weight.numpy(),
                                  direct.stages[2][1].convs[0].conv.weight.numpy())


DEFAULTS = {'tokens': 16, 'token_channels': 1024, 'groups': 16}
UNUSUAL = {'relation': 'convolution', 'position_encoding': False, 'tokenizer': 'filter', 'in_channels': 4}


@pytest.mark.parametrize('name', ['VT_' + BASIC, 'VT_' + BOTTLENECK])
@pytest.mark.parametrize('arguments', [TOKENS, {**TOKENS, **UNUSUAL}, {**TOKENS, 'relation': 'none'}, DEFAULTS],
                         ids=['tokens', 'unusual', 'none', 'defaults'])
@pytest.mark.parametrize('make', [backbone, classifier], ids=lambda make: make.__name__)
def test_arguments_of_visual_transformers_are_told(name, arguments, make, reduced_variants, tmp_path):
    source = make(name, **arguments)
    paddle.save(source.state_dict(), str(tmp_path / 'source.pdparams'))
    report = convert(str(tmp_path / 'source.pdparams'), tmp_path / 'ours.safetensors')
    unusual = {} if arguments is DEFAULTS else arguments
    assert report.tree == {'backbone': {'type': name, **unusual, 'pretrained': str(tmp_path / 'ours.safetensors')}}
    assert report.used == report.total == len(source.state_dict()) and report.notes == []
    assert_equal(read_weights(tmp_path / 'ours.safetensors').arrays, arrays_of(source))


@pytest.mark.parametrize('name', [BASIC, 'VT_' + BASIC])
@pytest.mark.parametrize('arguments', [{}, {'relation': 'convolution', 'position_encoding': False}],
                         ids=['usual', 'unusual'])
def test_arguments_of_token_pyramids_are_told(name, arguments, reduced_variants, tmp_path):
    source = segmentor(name, 'VTFPN', **arguments)
    paddle.save(source.state_dict(), str(tmp_path / 'source.pdparams'))
    report = convert(str(tmp_path / 'source.pdparams'), tmp_path / 'ours.pdparams')
    assert report.model == f'VTFPN over {name}, {NUM_CLASSES} classes'
    tree = yaml.safe_load(report.text().split('In a YAML:')[1])['model']
    assert tree == {'type': 'VTFPN', 'num_classes': NUM_CLASSES, 'fpn_channels': 8, **TOKENS, **arguments,
                    'backbone': {'type': name, **(TOKENS if name.startswith('VT_') else {})},
                    'pretrained': str(tmp_path / 'ours.pdparams')}
    assert_equal(read_weights(tmp_path / 'ours.pdparams').arrays, arrays_of(source))


def test_token_pyramids_over_twins_are_told(monkeypatch, tmp_path):
    name = 'Twins_SVT_S'
    variant = dataclasses.replace(twins.VARIANTS[name], channels=tuple(REDUCED_CHANNELS[name]))
    make = functools.partial(twins.Twins, variant, norm_after_stage=variant.local)
    monkeypatch.setitem(twins.VARIANTS, name, variant)
    monkeypatch.setattr(identification, 'components', lambda kind: {name: make} if kind == 'backbone' else
                        components(kind))
    arguments = {'fpn_channels': REDUCED_HEADS['fpn_channels'], **TOKENS, 'relation': 'none'}
    source = VTFPN(NUM_CLASSES, make(), **arguments)
    paddle.save(source.state_dict(), str(tmp_path / 'source.pdparams'))
    report = convert(str(tmp_path / 'source.pdparams'), tmp_path / 'ours.pdparams')
    assert report.model == f'VTFPN over {name}, {NUM_CLASSES} classes'
    assert report.tree == {'type': 'VTFPN', 'num_classes': NUM_CLASSES, **arguments, 'backbone': {'type': name},
                           'pretrained': str(tmp_path / 'ours.pdparams')}
    assert_equal(read_weights(tmp_path / 'ours.pdparams').arrays, arrays_of(source))


@pytest.mark.parametrize('make, beginning, missing', [
    (backbone, 'transformers.1.', 'transformers.1.tokenizer.filters.weight'),
    (backbone, 'transformers.1.tokenizer.filters.', 'transformers.1.tokenizer.filters.weight'),
    (backbone, 'transformers.0.tokenizer.pooling.value.', 'transformers.0.tokenizer.pooling.value.weight'),
    (classifier, 'backbone.transformers.0.tokenizer.pooling.value.', 'transformers.0.tokenizer.pooling.value.weight'),
    (functools.partial(segmentor, head='VTFPN'), 'backbone.transformers.1.', 'transformers.1.tokenizer.filters.weight'),
    (functools.partial(segmentor, head='VTFPN'), 'neck.tokenizers.0.pooling.value.',
     'neck.tokenizers.0.pooling.value.weight'),
])
def test_a_file_without_a_weight_that_tells_is_refused(make, beginning, missing, reduced_variants, tmp_path):
    arrays = {key: array for key, array in arrays_of(make('VT_' + BASIC)).items() if not key.startswith(beginning)}
    text = f'lacks {missing}; the file is damaged or incomplete'
    with pytest.raises(UserError, match=re.escape(text)):
        convert(paddle_file(tmp_path / 'source.pdparams', arrays), tmp_path / 'ours.pdparams')
    assert not (tmp_path / 'ours.pdparams').exists()


def test_a_resnet_of_more_blocks_than_ours_is_refused(reduced_variants, tmp_path):
    text = r'\(ResNet-152 classifier of PaddleClas\) has the sizes of no registered variant'
    with pytest.raises(UserError, match=text):
        convert(paddle_file(tmp_path / 'source.pdparams', deeper_paddleclas()), tmp_path / 'ours.pdparams')


@pytest.mark.parametrize('name', [BASIC, 'VT_' + BASIC])
def test_other_segmentors_are_told(name, reduced_variants, tmp_path):
    fusion = LinearFusionSeg(NUM_CLASSES, backbone(name), channels=6, use_aux_head=False)
    for title, source in (('LinearFusionSeg', fusion), ('SemanticFPN', segmentor(name)),
                          ('UPerNetMMSeg', segmentor(name, 'UPerNetMMSeg', use_aux_head=False))):
        paddle.save(source.state_dict(), str(tmp_path / 'source.pdparams'))
        report = convert(str(tmp_path / 'source.pdparams'), tmp_path / 'ours.pdparams')
        assert report.model == f'{title} over {name}, {NUM_CLASSES} classes'
        assert report.used == report.total == len(source.state_dict())


CONFIG = '''
batch_size: 1
iters: 1
train_dataset: {type: Dataset, dataset_root: x, train_path: x, num_classes: 5, mode: train,
                transforms: [{type: Normalize}]}
optimizer: {type: SGD}
lr_scheduler: {type: PolynomialDecay, learning_rate: 0.1}
loss: {types: [{type: CrossEntropyLoss}], coef: [1]}
model:
  type: VTFPN
  num_classes: 5
  fpn_channels: 16
  tokens: 4
  token_channels: 32
  backbone: {type: VT_ResNet18, tokens: 4, token_channels: 32, pretrained: /no/such/file}
'''


def test_the_command_at_full_width(tmp_path, capsys):
    judge = vision.resnet18(num_classes=NUM_CLASSES)
    paddle.save(judge.state_dict(), str(tmp_path / 'resnet18.pdparams'))
    source, ours = str(tmp_path / 'resnet18.pdparams'), str(tmp_path / 'ours.pdparams')
    assert main(['convert', source, ours]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert f'read     {source} (ResNet classifier of paddle.vision)\n' in out
    assert 'built    ResNet18, a classifier of 5 classes\n' in out
    assert 'type: ResNet18' in out and f'pretrained: {ours}' in out
    model = components('backbone')['VT_ResNet18'](tokens=4, token_channels=32, pretrained=ours)
    first = model.stem.conv1.conv.weight.numpy()
    np.testing.assert_array_equal(first, judge.conv1.weight.numpy())
    (tmp_path / 'model.yml').write_text(CONFIG)
    arguments = ['convert', source, str(tmp_path / 'vt.safetensors'), '--config', str(tmp_path / 'model.yml')]
    assert main(arguments) == 1
    assert 'fits the backbone of VTFPN but none of its heads' in capsys.readouterr().err
    assert main([*arguments, '--allow', 'neck.*', 'head.*']) == 0
    out = capsys.readouterr().out
    assert f'note     27 {UNUSED}layer4.0.conv1.weight' in out and FRESH in out
    arrays = read_weights(tmp_path / 'vt.safetensors').arrays
    np.testing.assert_array_equal(arrays['backbone.stem.conv1.conv.weight'], first)
