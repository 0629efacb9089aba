"""`paddleseg convert`: from a file of any source to one of ours, told by names and shapes or by a configuration."""
from __future__ import annotations

import re

import numpy as np
import paddle
import pytest
import yaml
from cases import CASES
from helpers import run_cli
from safetensors.numpy import save_file
from twins_checkpoints import (
    authors_segmentor,
    backbone,
    classifier,
    mmsegmentation,
    mmsegmentation_imagenet,
    paddleclas,
    segmentor,
    timm,
)
from twins_sources import NUM_CLASSES

from paddleseg_ext.backbones.twins import VARIANTS
from paddleseg_ext.checkpoints.pretrained import load_pretrained
from paddleseg_ext.checkpoints.reading import read_weights
from paddleseg_ext.cli.main import main
from paddleseg_ext.components import create_classifier
from paddleseg_ext.engine import identification
from paddleseg_ext.engine.convert import convert
from paddleseg_ext.errors import UserError
from paddleseg_ext.models.linear_fusion import LinearFusionSeg
from paddleseg_ext.registry import components

SVT, PCPVT = 'Twins_SVT_S', 'Twins_PCPVT_S'


@pytest.fixture
def reduced_variants(monkeypatch):
    """The registered variants have the widths of the fixtures; depths tell them apart as ever."""
    def make(name, build):
        return lambda **arguments: build(name, **arguments)

    def identify(shapes):
        stages = [sum(f'stages.{stage}.blocks.{block}.norm1.weight' in shapes for block in range(40))
                  for stage in range(4)]
        local = 'stages.0.blocks.0.attn.qkv.weight' in shapes
        return next((name for name, variant in VARIANTS.items()
                     if (list(variant.depths), variant.local) == (stages, local)), None)

    def create_classifier(name, *, num_classes, **arguments):
        assert num_classes == NUM_CLASSES
        return classifier(name, **arguments)

    backbones = {name: make(name, backbone) for name in VARIANTS}
    monkeypatch.setattr(identification, 'BACKBONES', (identify,))
    monkeypatch.setattr(identification, 'create_classifier', create_classifier)
    monkeypatch.setattr(identification, 'components',
                        lambda kind: backbones if kind == 'backbone' else components(kind))


def torch_file(path, arrays):
    save_file(arrays, path, metadata={'format': 'pt'})
    return str(path)


def assert_same_state(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert set(one) == set(other)
    for name, value in one.items():
        np.testing.assert_array_equal(value.numpy(), other[name].numpy(), err_msg=name)


CASES_OF_TWINS = [
    (timm, SVT, 'Twins_SVT_S, a classifier of 5 classes', classifier, 'pdparams'),
    (timm, PCPVT, 'Twins_PCPVT_S, a classifier of 5 classes', classifier, 'safetensors'),
    (mmsegmentation, SVT, 'SemanticFPN over Twins_SVT_S, 5 classes', segmentor, 'safetensors'),
    (authors_segmentor, PCPVT, 'SemanticFPN over Twins_PCPVT_S, 5 classes', segmentor, 'pdparams'),
    (mmsegmentation_imagenet, PCPVT, 'Twins_PCPVT_S, a backbone', backbone, 'safetensors'),
]


@pytest.mark.parametrize(('make', 'name', 'title', 'build', 'suffix'), CASES_OF_TWINS)
def test_the_file_is_that_of_the_model_it_belongs_to(reduced_variants, tmp_path, make, name, title, build, suffix):
    source = torch_file(tmp_path / 'source.safetensors', make(name))
    written = tmp_path / f'ours.{suffix}'
    report = convert(source, written)
    assert report.model == title
    assert read_weights(written).layout == 'paddle'
    direct, through = build(name), build(name)
    load_pretrained(direct, source)
    load_pretrained(through, str(written))
    assert_same_state(direct, through)
    assert set(read_weights(written).arrays) == set(direct.state_dict())


def test_upernet_with_its_auxiliary_head(reduced_variants, tmp_path):
    source = torch_file(tmp_path / 'source.safetensors', mmsegmentation(SVT, 'UPerNetMMSeg'))
    report = convert(source, tmp_path / 'ours.pdparams')
    assert report.tree == {'type': 'UPerNetMMSeg', 'num_classes': 5, 'channels': 8, 'use_aux_head': True,
                           'aux_channels': 6, 'aux_index': 2, 'backbone': {'type': SVT, 'norm_epsilon': 1e-5},
                           'pretrained': str(tmp_path / 'ours.pdparams')}
    load_pretrained(segmentor(SVT, 'UPerNetMMSeg'), str(tmp_path / 'ours.pdparams'))


def test_our_own_files_and_other_channels(reduced_variants, tmp_path):
    model = LinearFusionSeg(3, backbone(SVT, in_channels=4), channels=6, use_aux_head=True, aux_channels=5, aux_index=1)
    paddle.save(model.state_dict(), str(tmp_path / 'model.pdparams'))
    report = convert(str(tmp_path / 'model.pdparams'), tmp_path / 'ours.safetensors')
    assert report.tree == {'type': 'LinearFusionSeg', 'num_classes': 3, 'channels': 6, 'use_aux_head': True,
                           'aux_channels': 5, 'aux_index': 1, 'backbone': {'type': SVT, 'in_channels': 4},
                           'pretrained': str(tmp_path / 'ours.safetensors')}
    assert report.notes == [] and report.used == report.total == len(model.state_dict())


@pytest.mark.parametrize('case', [case for case in CASES if case.model == 'RTFormer'], ids=lambda case: case.name)
def test_rtformer(tmp_path, case):
    source = case.build(in_channels=4)
    paddle.save(source.state_dict(), str(tmp_path / 'model.pdparams'))
    report = convert(str(tmp_path), tmp_path / 'ours.safetensors')
    assert 'RTFormer of PaddleSeg or of paddleseg_ext' in report.text() and report.model == 'RTFormer, 5 classes'
    arguments = {**case.arguments, **report.tree}
    assert arguments.pop('type') == 'RTFormer'
    again = components('model')['RTFormer'](**arguments)
    assert_same_state(source, again)


def test_the_report_lists_what_was_dropped_and_prints_yaml_that_works(reduced_variants, tmp_path):
    source = torch_file(tmp_path / 'source.safetensors', mmsegmentation(SVT))
    report = convert(source, tmp_path / 'ours.pdparams')
    text = report.text()
    assert text.startswith(f'read     {source} (Twins segmentor of mmsegmentation)\n'
                           'built    SemanticFPN over Twins_SVT_S, 5 classes\n')
    wrote = f'wrote    {tmp_path / "ours.pdparams"}: {report.total} weights, {report.total} of them from the source'
    assert wrote in text
    assert re.search(r"note     7 not used, because PyTorch's counter of batches, which nothing reads: ", text)
    tree = yaml.safe_load(text.split('In a YAML:')[1])['model']
    section = tree.pop('backbone')
    model = components('model')[tree.pop('type')](backbone=backbone(section.pop('type'), **section), **tree)
    expected = mmsegmentation(SVT)['neck.lateral_convs.0.conv.weight']
    np.testing.assert_array_equal(model.neck.laterals[0].weight.numpy(), expected)


def test_a_given_model_is_filled(tmp_path):
    source = torch_file(tmp_path / 'source.safetensors', mmsegmentation(SVT))
    model = segmentor(SVT, num_classes=7)
    with pytest.raises(UserError, match='2 of another shape: head.classifier.weight'):
        convert(source, tmp_path / 'ours.pdparams', model=model)
    assert not (tmp_path / 'ours.pdparams').exists()
    report = convert(source, tmp_path / 'ours.pdparams', model=model, allow=['head.classifier.*'])
    assert report.model == 'SemanticFPN' and report.tree is None
    assert read_weights(tmp_path / 'ours.pdparams').arrays['head.classifier.bias'].shape == (7,)


def test_paddleclas(reduced_variants, tmp_path):
    tensors = {name: paddle.to_tensor(array) for name, array in paddleclas(SVT).items()}
    paddle.save(tensors, str(tmp_path / 'clas.pdparams'))
    convert(str(tmp_path / 'clas.pdparams'), tmp_path / 'ours.pdparams')
    expected = classifier(SVT, pretrained=torch_file(tmp_path / 'timm.safetensors', timm(SVT)))
    assert_same_state(expected, classifier(SVT, pretrained=str(tmp_path / 'ours.pdparams')))


# Mistakes

def test_the_source_is_never_overwritten(tmp_path):
    path = torch_file(tmp_path / 'source.safetensors', timm(SVT))
    before = (tmp_path / 'source.safetensors').read_bytes()
    for destination in (path, tmp_path / 'x' / '..' / 'source.safetensors'):
        (tmp_path / 'x').mkdir(exist_ok=True)
        with pytest.raises(UserError, match='is the source itself; choose another name for the converted file'):
            convert(path, destination)
    assert (tmp_path / 'source.safetensors').read_bytes() == before


@pytest.mark.parametrize('name', ['ours.pth', 'ours'])
def test_other_endings_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r'weights are written as \.pdparams or \.safetensors; choose one of these'):
        convert(str(tmp_path / 'absent'), tmp_path / name)


def test_unknown_names_and_unregistered_sizes_are_refused(tmp_path):
    unknown = torch_file(tmp_path / 'unknown.safetensors', {'some.weight': np.ones(2, 'float32')})
    with pytest.raises(UserError, match=r'unknown\.safetensors has names of no format that is known; its first are '
                                        r'some\.weight\. .* give that with --config'):
        convert(unknown, tmp_path / 'ours.pdparams')
    narrow = torch_file(tmp_path / 'narrow.safetensors', timm(SVT))
    text = r'narrow\.safetensors \(Twins classifier of timm or of its authors\) has the sizes of no registered variant'
    with pytest.raises(UserError, match=text):
        convert(narrow, tmp_path / 'ours.pdparams')
    trunk = {name: value for name, value in CASES[0].build().state_dict().items() if not name.startswith('seghead')}
    paddle.save(trunk, str(tmp_path / 'trunk.pdparams'))
    with pytest.raises(UserError, match='holds the trunk of an RTFormer without its head; give the YAML of a model'):
        convert(str(tmp_path / 'trunk.pdparams'), tmp_path / 'ours.pdparams')
    assert not (tmp_path / 'ours.pdparams').exists()


def test_a_source_that_lacks_something_is_refused(reduced_variants, tmp_path):
    arrays = timm(SVT)
    del arrays['blocks.2.3.mlp.fc1.bias']
    source = torch_file(tmp_path / 'source.safetensors', arrays)
    with pytest.raises(UserError, match=r'1 missing in it: backbone\.stages\.2\.blocks\.3\.mlp\.fc1\.bias'):
        convert(source, tmp_path / 'ours.pdparams')
    assert not (tmp_path / 'ours.pdparams').exists()


# The command

CONFIG = '''
batch_size: 1
iters: 1
train_dataset: {type: Dataset, dataset_root: x, train_path: x, num_classes: 5, mode: train,
                transforms: [{type: Normalize}]}
optimizer: {type: SGD}
lr_scheduler: {type: PolynomialDecay, learning_rate: 0.1}
loss: {types: [{type: CrossEntropyLoss}], coef: [1, 1]}
model: {type: RTFormer, num_classes: 5, base_channels: 8, head_channels: 8, spp_channels: 8, cross_size: 4,
        pretrained: /no/such/file}
'''


def test_with_a_configuration(tmp_path, capsys):
    (tmp_path / 'model.yml').write_text(CONFIG)
    paddle.save(CASES[0].build().state_dict(), str(tmp_path / 'model.pdparams'))
    arguments = ['convert', str(tmp_path / 'model.pdparams'), str(tmp_path / 'ours.safetensors')]
    assert main([*arguments, '--config', str(tmp_path / 'model.yml')]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert 'built    RTFormer\n' in out and 'In a YAML' not in out
    arguments += ['--config', str(tmp_path / 'model.yml'), '--opts', 'model.num_classes=3',
                  'train_dataset.num_classes=3']
    assert main(arguments) == 1
    assert 'of another shape: seghead.conv2.weight' in capsys.readouterr().err
    assert main([*arguments, '--allow', 'seghead.conv2.*', 'seghead_extra.conv2.*']) == 0


def test_the_command_without_a_configuration(reduced_variants, tmp_path, capsys):
    source = torch_file(tmp_path / 'source.safetensors', mmsegmentation(SVT))
    assert main(['convert', source, str(tmp_path / 'ours.pdparams')]) == 0
    out = capsys.readouterr().out
    assert 'built    SemanticFPN over Twins_SVT_S' in out and 'In a YAML:' in out


@pytest.mark.slow
def test_the_command_at_full_width(tmp_path):
    model = components('backbone')['Twins_SVT_S']()
    paddle.save(model.state_dict(), str(tmp_path / 'model.pdparams'))
    done = run_cli('convert', tmp_path / 'model.pdparams', tmp_path / 'ours.safetensors')
    assert done.returncode == 0, done.stderr
    assert 'built    Twins_SVT_S, a backbone' in done.stdout and 'pretrained: ' in done.stdout


def test_the_commands_mistakes(tmp_path, capsys):
    assert main(['convert', str(tmp_path / 'absent.pth'), str(tmp_path / 'ours.pdparams')]) == 1
    assert 'absent.pth does not exist' in capsys.readouterr().err
    assert main(['convert', str(tmp_path), str(tmp_path / 'ours.pdparams'), '--opts', 'a=1']) == 1
    assert '--opts changes a configuration; name it with --config.' in capsys.readouterr().err


@pytest.mark.parametrize('wanted, built', [('classifier', 'XCiT_N12_P16, a classifier of 5 classes'),
                                           ('backbone', 'XCiT_N12_P16, a backbone'),
                                           ('segmentor', 'SemanticFPN over XCiT_N12_P16, 5 classes')])
def test_xcit_is_told_by_names_and_shapes(tmp_path, wanted, built):
    model = {'classifier': lambda: create_classifier('XCiT_N12_P16', num_classes=5, in_channels=4),
             'backbone': lambda: components('backbone')['XCiT_N12_P16'](in_channels=4),
             'segmentor': lambda: components('model')['SemanticFPN'](
                 5, components('backbone')['XCiT_N12_P16'](in_channels=4), fpn_channels=16, head_channels=8)}[wanted]()
    paddle.save(model.state_dict(), str(tmp_path / 'model.pdparams'))
    done = convert(str(tmp_path / 'model.pdparams'), tmp_path / 'converted.safetensors')
    assert done.model == built
    assert 'in_channels: 4' in done.text()
    same = {name: value.numpy() for name, value in model.state_dict().items()}
    written = read_weights(tmp_path / 'converted.safetensors').arrays
    assert set(written) == set(same)
    assert all(np.array_equal(written[name], same[name]) for name in same)
