"""Checkpoints of ResNets and VT-ResNets: what each source's names become, and what models take of them, and say so.

`parity/make_resnet_fixtures.py` made the expected numbers with timm itself, at reduced widths and the depths of the
variants; `make test-parity` compares the full widths.
"""
from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import paddle
import pytest
from cases import arrays_of, relative_difference
from paddle.vision import models as vision
from resnet_checkpoints import (
    BASIC,
    BOTTLENECK,
    DEEP,
    FRESH,
    SOURCES,
    UNUSED,
    assert_equal,
    backbone,
    classifier,
    deeper_paddleclas,
    early_paddleclas,
    mmsegmentation,
    paddleclas,
    segmentor,
    timm,
    torch_file,
    weights,
)
from resnet_sources import FIXTURES, LOGITS, MAPS, NUM_CLASSES, SIZES, TIMM_NAMES, images, output_key, subsampled

from paddleseg_ext.backbones import resnet
from paddleseg_ext.checkpoints.formats import FORMATS, recognise, resembles
from paddleseg_ext.checkpoints.formats import resnet as formats
from paddleseg_ext.checkpoints.pretrained import load_arrays, load_pretrained, translation_of
from paddleseg_ext.checkpoints.reading import Weights
from paddleseg_ext.checkpoints.rules import is_of
from paddleseg_ext.components import create_classifier
from paddleseg_ext.errors import UserError

DOCUMENT = Path(__file__).resolve().parents[1] / 'docs/checkpoints.md'
LIMIT = 1e-5
# With early names PaddleClas's ResNet-18 and 34 all project their first shortcut; they have a test of their own.
CASES = [(source, name) for source in SOURCES for name in TIMM_NAMES
         if source != 'early_paddleclas' or name in (BOTTLENECK, DEEP)]
MAKERS = (backbone, classifier, segmentor)

over_variants = pytest.mark.parametrize('name', TIMM_NAMES)


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO, 'paddleseg_ext')
    return caplog


@pytest.fixture(scope='module')
def expected():
    """timm's logits and maps, by the key of the case."""
    return dict(np.load(FIXTURES / 'outputs.npz'))


def refusal(model, given: Weights, **arguments) -> str:
    before = {name: value.copy() for name, value in arrays_of(model).items()}
    with pytest.raises(UserError) as caught:
        load_arrays(model, given, source='some.pth', **arguments)
    assert_equal(arrays_of(model), before)  # a refused file changes nothing
    return str(caught.value)


# Formats

def test_every_format_is_tested():
    theirs = {title.format(layers=layers) for _, _, title in SOURCES.values() for layers in (18, 34, 50, 101, 152)}
    ours = {f'{kind} {make.__name__} of paddleseg_ext' for make in MAKERS for kind in ('ResNet', 'VT-ResNet')}
    assert {form.name for form in formats.FORMATS} == theirs | ours


@pytest.mark.parametrize(('source', 'name'), CASES)
def test_every_source_is_recognised_and_used_up(source, name):
    given, wanted = weights(source, name), SOURCES[source][2].format(layers=name[6:])
    assert recognise(given.arrays, given.layout).name == wanted
    assert recognise(given.arrays, None).name == wanted  # a safetensors file that does not say whose it is
    fitting = [form.name for form in FORMATS if form.layout == given.layout and is_of(form, given.arrays)]
    # The formats without a head are found last, so that a classifier is never taken for one.
    assert fitting[0] == wanted and all('backbone' in other for other in fitting[1:])
    translation = translation_of(given)
    assert not translation.unmatched
    assert {*translation.origins.values(), *sum(translation.dropped.values(), [])} == set(given.arrays)


@pytest.mark.parametrize('make', MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize('name', [BASIC, BOTTLENECK, 'VT_' + BASIC, 'VT_' + BOTTLENECK])
def test_ours_are_recognised_and_come_back(make, name, log):
    arrays, other = arrays_of(make(name)), make(name)
    assert recognise(arrays, 'paddle').name == (f'{"VT-" if name.startswith("VT_") else ""}ResNet {make.__name__} of '
                                                'paddleseg_ext')
    log.clear()
    load_arrays(other, Weights(arrays, 'paddle'), source='ours')
    assert_equal(arrays_of(other), arrays)
    assert 'not used' not in log.text and 'fresh' not in log.text


@pytest.mark.parametrize(('names', 'what'), [
    ({'conv1.0.weight', 'conv1.3.weight', 'layer1.0.conv1.weight', 'layer1.0.bn1.running_mean', 'fc.weight'},
     'a ResNet with a deep stem, such as ResNet-C or ResNet-D'),
    ({'stem.0.weight', 'layer1.0.conv1.weight'}, 'a ResNet with a deep stem, such as ResNet-C or ResNet-D'),
    ({'backbone.stem.0.weight', 'backbone.layer1.0.conv1.weight', 'decode_head.conv_seg.weight'},
     'a segmentor over a ResNet with a deep stem, such as ResNet-C or ResNet-D'),
    ({*timm(BOTTLENECK), 'layer1.0.se.fc1.weight'}, 'a ResNet with other blocks'),
    ({*timm(BOTTLENECK), 'layer2.0.downsample.2.weight'}, 'a ResNet with other blocks'),
    ({*paddleclas(BOTTLENECK), 'stem.1.conv.weight', 'stem.2.conv.weight'}, 'a ResNet_vd of PaddleClas'),
    ({'conv1_1._conv.weight', 'bb_0_0.conv0._conv.weight'}, 'a ResNet_vc or ResNet_vd of PaddleSeg or PaddleClas'),
    ({'backbone.conv1_1._conv.weight', 'backbone.bb_0_0.conv0._conv.weight'},
     'a segmentor of PaddleSeg over a ResNet_vd'),
    ({'conv1.weight', 'conv2.weight', 'layer1.0.conv1.weight', 'layer1.0.bn1.running_mean',
      'stage4.0.branches.0.0.conv1.weight'}, 'an HRNet'),
    ({'backbone.conv1.weight', 'backbone.layer1.0.conv1.weight', 'backbone.layer1.0.bn1.running_mean',
      'backbone.stage4.0.branches.0.0.conv1.weight', 'decode_head.conv_seg.weight'}, 'a segmentor over an HRNet')])
def test_other_resnets_are_called_what_they_are(names, what):
    assert recognise(names, None) is None and resembles(names) == what


# ResNet

def test_there_is_a_fixture_for_every_variant(expected):
    assert list(TIMM_NAMES) == list(resnet.VARIANTS)
    assert set(expected) == {output_key(name, size, kind) for name in resnet.VARIANTS for size in SIZES
                             for kind in (LOGITS, *MAPS)}
    assert any(side % 2 for size in SIZES for side in size)


@over_variants
def test_numbers_equal_those_of_timm(name, expected, tmp_path):
    file = torch_file(tmp_path / 'timm.safetensors', timm(name))
    whole, part, tokens = (make(key, pretrained=file) for make, key in (
        (classifier, name), (backbone, name), (backbone, f'VT_{name}')))
    for model in (whole, part, tokens):
        model.eval()
    for size in SIZES:
        x = paddle.to_tensor(images(size))
        with paddle.no_grad():
            ours, given = dict(zip((LOGITS, *MAPS), [whole(x), *part(x)])), tokens(x)
        for kind, value in ours.items():
            wanted = expected[output_key(name, size, kind)]
            assert relative_difference(subsampled(value.numpy()), wanted) < LIMIT, (size, kind)
        # Images differ by far more than the limit, so the comparison is of what was seen.
        logits = ours[LOGITS].numpy()
        assert np.abs(logits[0] - logits[1]).max() > 100 * LIMIT * np.abs(logits).max()
        for kind, value in zip(MAPS[:3], given):
            assert relative_difference(value.numpy(), ours[kind].numpy()) < LIMIT, (size, kind)


@pytest.mark.parametrize('name', [BASIC, pytest.param(BOTTLENECK, marks=pytest.mark.slow)])
def test_numbers_equal_those_of_paddle_vision(name, tmp_path):
    """At full width, because Paddle has the program itself."""
    judge = getattr(vision, name.lower())(num_classes=NUM_CLASSES)
    generator = np.random.default_rng(0)
    for value in judge.state_dict().values():
        if value.ndim == 1:
            value.set_value(generator.uniform(0.5, 1.5, value.shape).astype('float32'))
    paddle.save(judge.state_dict(), str(tmp_path / 'vision.pdparams'))
    model = create_classifier(name, num_classes=NUM_CLASSES, pretrained=str(tmp_path / 'vision.pdparams'))
    x = paddle.to_tensor(images((64, 75))[:1])
    with paddle.no_grad():
        judge.eval(), model.eval()
        assert relative_difference(model(x).numpy(), judge(x).numpy()) < LIMIT


@pytest.mark.parametrize(('source', 'name'), [case for case in CASES if 'paddle' in case[0] and 'bare' not in case[0]])
def test_weights_are_the_same_from_every_source(source, name, log):
    whole, other, part = classifier(name), classifier(name), backbone(name)
    load_arrays(whole, weights('timm', name), source='timm')
    load_arrays(other, weights(source, name), source=source)
    assert_equal(arrays_of(other), arrays_of(whole))
    log.clear()
    load_arrays(part, weights(source, name), source=source)
    assert_equal(arrays_of(part), arrays_of(whole.backbone))
    assert 'not used, because it is outside of the backbone: ' in log.text and 'fresh' not in log.text


@pytest.mark.parametrize('source', ['bare', 'paddle_vision_bare'])
def test_a_backbone_alone(source):
    part, whole = backbone(BASIC), classifier(BASIC)
    load_arrays(whole, weights('timm', BASIC), source='timm')
    load_arrays(part, weights(source, BASIC), source=source)
    assert_equal(arrays_of(part), arrays_of(whole.backbone))
    text = refusal(classifier(BASIC), weights(source, BASIC))
    assert 'fits the backbone of ResNetClassifier but none of its heads' in text
    load_arrays(whole, weights(source, BASIC), source=source, allow=['head.*'])


@pytest.mark.parametrize(('name', 'head'), [*((name, 'SemanticFPN') for name in TIMM_NAMES), (BASIC, 'UPerNetMMSeg')])
def test_segmentors_of_mmsegmentation_load_whole(name, head):
    source, model = mmsegmentation(name, head), segmentor(name, head)
    loaded = load_arrays(model, Weights(source, 'torch'), source='given')
    counters = sum(key.endswith('num_batches_tracked') for key in source)
    assert loaded.used == len(model.state_dict()) == len(source) - counters
    ours = arrays_of(model)
    part = backbone(name)
    load_arrays(part, Weights(source, 'torch'), source='given')
    assert_equal(arrays_of(part), arrays_of(model.backbone))
    for key, theirs in (('backbone.stem.conv1.bn._variance', 'backbone.bn1.running_var'),
                        ('backbone.stages.3.0.shortcut.conv.weight', 'backbone.layer4.0.downsample.0.weight'),
                        ('head.classifier.weight', 'decode_head.conv_seg.weight')):
        np.testing.assert_array_equal(ours[key], source[theirs])


@pytest.mark.parametrize('name', [BASIC, 'VT_' + BASIC])
@pytest.mark.parametrize('channels', [1, 4])
def test_other_channel_counts(name, channels, tmp_path, log):
    file = torch_file(tmp_path / 'timm.safetensors', timm(BASIC))
    model = backbone(name, in_channels=channels, pretrained=file)
    theirs = timm(BASIC)['conv1.weight'][:, np.arange(channels) % 3] * 3 / channels
    np.testing.assert_allclose(model.stem.conv1.conv.weight.numpy(), theirs, rtol=1e-6)
    assert f'stem.conv1.conv.weight adapted from 3 to {channels} input channels (repeated and rescaled)' in log.text


# VT-ResNet

def note(notes: list[str], beginning: str) -> str:
    [found] = [each for each in notes if re.fullmatch(rf'\d+ {re.escape(beginning)}.*', each)]
    return found


@pytest.mark.parametrize(('source', 'name'), [*((source, BASIC) for source in SOURCES if source != 'early_paddleclas'),
                                              ('early_paddleclas', BOTTLENECK), ('timm', BOTTLENECK)])
def test_a_visual_transformer_takes_the_convolutional_stages(source, name, log):
    model, wanted = backbone(f'VT_{name}'), backbone(name)
    load_arrays(wanted, weights(source, name), source=source)
    before = arrays_of(model)
    tokens = {key: value.copy() for key, value in before.items() if key.startswith('transformers.')}
    stages = {key: value for key, value in arrays_of(wanted).items() if not key.startswith('stages.3.')}
    log.clear()
    loaded = load_arrays(model, weights(source, name), source='some.file')
    assert_equal(arrays_of(model), {**stages, **tokens})
    assert loaded.used == len(stages)
    last = len(arrays_of(wanted)) - len(stages)
    unused = note(loaded.notes, UNUSED)
    head = source not in ('bare', 'paddle_vision_bare', 'mmsegmentation')
    assert int(unused.split()[0]) == last + 2 * head
    assert int(note(loaded.notes, FRESH).split()[0]) == len(tokens)
    assert all(each in log.text for each in loaded.notes)


@pytest.mark.parametrize('source', ['timm', 'bare', 'paddleclas'])
def test_a_classifier_starts_with_a_fresh_head(source, log):
    model = classifier('VT_' + BOTTLENECK, num_classes=7)
    before = {key: value.copy() for key, value in arrays_of(model).items()}
    loaded = load_arrays(model, weights(source, BOTTLENECK), source='some.file')
    fresh = [key for key in before if key.startswith(('backbone.transformers.', 'head.'))]
    after = arrays_of(model)
    assert_equal({key: after[key] for key in fresh}, {key: before[key] for key in fresh})
    np.testing.assert_array_equal(after['backbone.stages.2.5.convs.2.bn._mean'],
                                  timm(BOTTLENECK)['layer3.5.bn3.running_mean'])
    assert loaded.used == len(before) - len(fresh)
    assert f'{len(fresh)} {FRESH}' in log.text and 'started fresh: backbone.transformers.0.' in log.text
    assert UNUSED in log.text


def test_what_is_not_used_is_named(log):
    load_arrays(backbone('VT_' + BASIC), weights('timm', BASIC), source='resnet18.pth')
    assert 'VTResNet: 27 not used, because visual transformers take its place: layer4.0.conv1.weight, ' in log.text
    assert 'resnet18.pth (ResNet classifier of torchvision or timm)' in log.text


@pytest.mark.parametrize('head', ['SemanticFPN', 'VTFPN'])
def test_inside_of_a_segmentor(head, tmp_path, log):
    file = torch_file(tmp_path / 'timm.safetensors', timm(BASIC))
    text = refusal(segmentor('VT_' + BASIC, head), weights('timm', BASIC))
    assert re.search(r'fits the backbone of \w+ but none of its heads; give it as `pretrained` of the backbone', text)
    model = segmentor('VT_' + BASIC, head)
    load_pretrained(model.backbone, file)
    other = segmentor('VT_' + BASIC, head, pretrained=file, pretrained_allow=['neck.*', 'head.*'])
    given, wanted = arrays_of(other), arrays_of(model)
    for key in given:
        if key.startswith(('backbone.stem.', 'backbone.stages.')):
            np.testing.assert_array_equal(given[key], wanted[key], err_msg=key)
    assert UNUSED in log.text and FRESH in log.text


@pytest.mark.parametrize('head', ['SemanticFPN', 'VTFPN'])
def test_from_our_own_resnets(head, tmp_path, log):
    source = segmentor(BASIC, head)
    paddle.save(source.state_dict(), str(tmp_path / 'model.pdparams'))
    model = backbone('VT_' + BASIC, pretrained=str(tmp_path / 'model.pdparams'))
    np.testing.assert_array_equal(model.stages[2][1].convs[1].conv.weight.numpy(),
                                  source.backbone.stages[2][1].convs[1].conv.weight.numpy())
    assert UNUSED + 'backbone.stages.3.0.convs.0.conv.weight' in log.text and FRESH in log.text
    assert 'ResNet segmentor of paddleseg_ext' in log.text
    plain = backbone(BASIC, pretrained=str(tmp_path / 'model.pdparams'))
    assert_equal(arrays_of(plain), arrays_of(source.backbone))


@pytest.mark.parametrize('name', [BASIC, 'ResNet34', BOTTLENECK])
def test_a_backbone_from_its_own_classifier_has_a_fresh_last_projector(name, log):
    source, model = classifier(f'VT_{name}'), backbone(f'VT_{name}')
    last = resnet.VARIANTS[name].depths[-1] - 1
    fresh = {key: value.copy() for key, value in arrays_of(model).items()
             if key.startswith(f'transformers.{last}.projector.')}
    assert len(fresh) == 3
    loaded = load_arrays(model, Weights(arrays_of(source), 'paddle'), source='ours.pdparams')
    assert_equal(arrays_of(model), {**arrays_of(source.backbone), **fresh})
    assert '3 fresh, because the last visual transformer of a classifier projects nothing' in loaded.notes
    assert f'started fresh: transformers.{last}.projector.' in log.text
    assert '2 not used, because it is outside of the backbone: head.weight, head.bias' in log.text


def test_an_earlier_projector_is_never_fresh():
    arrays = arrays_of(classifier('VT_' + BOTTLENECK))
    for part in ('query', 'key', 'value'):
        del arrays[f'backbone.transformers.1.projector.{part}.weight']
    text = refusal(backbone('VT_' + BOTTLENECK), Weights(arrays, 'paddle'))
    assert '3 missing in it: transformers.1.projector.query.weight' in text


# Errors

@pytest.mark.parametrize('name', [BASIC, 'VT_' + BASIC])
def test_what_is_left_over_or_missing_is_an_error(name):
    arrays = timm(BASIC)
    del arrays['layer2.1.conv2.weight']
    text = refusal(backbone(name), Weights(arrays, 'torch'))
    assert text.startswith('some.pth (ResNet classifier of torchvision or timm) does not fit ')
    assert '1 missing in it: stages.1.1.convs.1.conv.weight' in text
    extra = {**timm(BASIC), 'layer2.1.conv4.weight': np.ones(2, 'float32')}
    assert '1 unknown to the model: layer2.1.conv4.weight' in refusal(backbone(name), Weights(extra, 'torch'))


@pytest.mark.parametrize(('name', 'given', 'source'), [
    (BASIC, 'ResNet34', 'timm'), ('ResNet34', BASIC, 'timm'), ('ResNet34', BOTTLENECK, 'timm'),
    (BOTTLENECK, 'ResNet34', 'paddleclas'), (BOTTLENECK, DEEP, 'paddleclas')])
def test_another_variant_is_refused(name, given, source):
    for model in (backbone(name), backbone(f'VT_{name}')):
        assert re.search('missing in it|unknown to the model|of another shape', refusal(model, weights(source, given)))


@pytest.mark.parametrize('name', [DEEP, 'VT_' + DEEP])
def test_a_resnet_of_more_blocks_than_ours_is_refused(name):
    given = Weights(deeper_paddleclas(), 'paddle')
    assert recognise(given.arrays, 'paddle').name == 'ResNet-152 classifier of PaddleClas'
    text = refusal(backbone(name), given)
    assert text.startswith('some.pth (ResNet-152 classifier of PaddleClas) does not fit ')
    # 4 blocks of the second stage and 13 of the third, with 3 convolutions and their norms each.
    assert f'{17 * 3 * 5} unknown to the model: stages.1.4.' in text
    assert 'missing in it' not in text


def test_a_plain_resnet_without_its_last_stage_is_refused():
    """Only where visual transformers stand may a last stage be missing."""
    arrays = {key: array for key, array in timm(BASIC).items() if not key.startswith('layer4.')}
    assert 'missing in it: stages.3.0.convs.0.conv.weight' in refusal(backbone(BASIC), Weights(arrays, 'torch'))
    load_arrays(backbone('VT_' + BASIC), Weights(arrays, 'torch'), source='given')


def test_visual_transformers_do_not_fit_a_plain_resnet():
    text = refusal(backbone(BASIC), Weights(arrays_of(backbone('VT_' + BASIC)), 'paddle'))
    assert text.startswith('some.pth (VT-ResNet backbone of paddleseg_ext) does not fit ResNet: ')
    assert 'missing in it: stages.3.' in text and 'unknown to the model: transformers.0.' in text


@pytest.mark.parametrize('name', [BASIC, 'VT_' + BASIC])
@pytest.mark.parametrize('make', [paddleclas, early_paddleclas], ids=lambda make: make.__name__)
def test_the_basic_resnets_of_paddleclas_project_their_first_shortcut(make, name):
    given = Weights(make(BASIC, projected_first=True), 'paddle')
    model = backbone(name, first_projection=True)
    load_arrays(model, given, source='given')
    shortcut = next(array for key, array in given.arrays.items()
                    if key in ('blocks.0.short.conv.weight', 'res2a.short._conv.weight'))
    np.testing.assert_array_equal(model.stages[0][0].shortcut.conv.weight.numpy(), shortcut)

    text = refusal(backbone(name), given)
    assert text.startswith('some.pth (ResNet')
    assert '5 unknown to the model: stages.0.0.shortcut.' in text
    assert 'They belong to a backbone with first_projection: true.' in text.splitlines()[-1]


# The document

def test_the_table_of_parity_has_a_word_for_every_variant():
    of_resnets = DOCUMENT.read_text().split('ResNets; the first three maps')[1]
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in of_resnets.splitlines()
            if line.startswith('| ') and '---' not in line]
    assert rows[0][1:] == list(resnet.VARIANTS) and len(rows) == 9
    assert all(len(row) == 5 and set(row[1:]) <= {'live', 'names', 'run here'} for row in rows[1:])
