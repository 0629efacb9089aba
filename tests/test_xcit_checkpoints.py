"""Formats of XCiT: what each source's names become, that nothing is lost on the way, and how models take them."""
from __future__ import annotations

import logging
import re

import numpy as np
import paddle
import pytest
from cases import images, relative_difference
from safetensors.numpy import save_file
from xcit_checkpoints import (
    authors,
    authors_segmentor,
    backbone,
    classifier,
    dino,
    dino_training,
    paddlevit,
    reduced,
    segmentor,
    timm,
)

from paddleseg_ext.backbones import xcit as models
from paddleseg_ext.backbones.xcit import VARIANTS, XCiT
from paddleseg_ext.checkpoints.formats import FORMATS, recognise, xcit
from paddleseg_ext.checkpoints.pretrained import load_arrays, load_pretrained, translation_of
from paddleseg_ext.checkpoints.reading import Weights
from paddleseg_ext.checkpoints.rules import Format, Split, bears, translate
from paddleseg_ext.errors import UserError

P16, P8 = 'XCiT_N12_P16', 'XCiT_T12_P8'
both = pytest.mark.parametrize('name', [P16, P8])
COUNTERS = "because PyTorch's counter of batches"

#             names               layout    format
SOURCES = {
    'timm': (timm, 'torch', 'XCiT classifier of timm'),
    'authors': (authors, 'torch', 'XCiT classifier of its authors'),
    'dino': (dino, 'torch', 'XCiT of its authors without head (DINO)'),
    'dino_training': (dino_training, 'torch', 'XCiT and its head in training with DINO'),
    'paddlevit': (paddlevit, 'paddle', 'XCiT classifier of PaddleViT'),
    'segmentor': (authors_segmentor, 'torch', 'XCiT segmentor of its authors'),
}
over_sources = pytest.mark.parametrize('source', SOURCES)


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO, 'paddleseg_ext')
    return caplog


def test_every_format_is_tested():
    ours = {f'XCiT {make.__name__} of paddleseg_ext' for make in (backbone, classifier, segmentor)}
    assert {form.name for form in xcit.FORMATS} == {*(title for _, _, title in SOURCES.values()), *ours}


def test_an_array_is_split_along_its_last_axis_too():
    form = Format('x', 'paddle', (), (Split('qkv', (('q', 1), ('kv', 2)), -1),))
    array = np.arange(12.).reshape(2, 6)
    arrays = translate({'qkv': array}, form).arrays
    np.testing.assert_array_equal(np.concatenate([arrays['q'], arrays['kv']], axis=1), array)
    assert arrays['q'].shape == (2, 2)
    with pytest.raises(UserError, match=r'qkv has the shape \[3, 4\], .* 3 equal parts along its last axis'):
        translate({'qkv': np.ones((3, 4))}, form)


def weights(source: str, name: str) -> Weights:
    make, layout, _ = SOURCES[source]
    return Weights(make(name), layout)


def arrays_of(model) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def assert_equal(ours: dict, wanted: dict) -> None:
    assert set(ours) == set(wanted)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)


@over_sources
@both
def test_every_source_is_recognised_and_used_up(source, name):
    given, wanted = weights(source, name), SOURCES[source][2]
    assert recognise(given.arrays, given.layout).name == wanted
    fitting = [form.name for form in FORMATS if form.layout == given.layout and bears(given.arrays, form.marks)]
    # The format without a head is found last, so that a classifier is never taken for one.
    assert fitting[0] == wanted and set(fitting[1:]) <= {SOURCES['dino'][2]}
    translation = translation_of(given)
    assert not translation.unmatched
    used = [*translation.origins.values(), *sum(translation.dropped.values(), [])]
    assert set(used) == set(given.arrays)


@pytest.mark.parametrize('make', [backbone, classifier, segmentor], ids=lambda make: make.__name__)
@both
def test_ours_are_recognised(make, name):
    arrays = arrays_of(make(name))
    form = recognise(arrays, 'paddle')
    assert form.name == f'XCiT {make.__name__} of paddleseg_ext'
    other = make(name)
    load_arrays(other, Weights(arrays, 'paddle'), source='ours')
    assert_equal(arrays_of(other), arrays)


@both
def test_classifiers_are_the_same_from_every_source(name):
    models = {}
    for source in ('timm', 'authors', 'paddlevit'):
        model = classifier(name)
        load_arrays(model, weights(source, name), source=source)
        models[source] = arrays_of(model)
    for source in ('authors', 'paddlevit'):
        assert_equal(models[source], models['timm'])


@pytest.mark.parametrize('source', ['timm', 'authors', 'dino', 'dino_training', 'paddlevit'])
@both
def test_backbones_take_their_part_and_say_what_they_leave(source, name, log):
    whole = classifier(name)
    load_arrays(whole, weights('timm', name), source='timm')
    model = backbone(name)
    fresh = {key: value for key, value in arrays_of(model).items() if key.startswith('pyramid.')}
    log.clear()
    load_arrays(model, weights(source, name), source='given')
    assert_equal(arrays_of(model), {**arrays_of(whole.backbone), **fresh})
    text = log.text
    assert re.search(r'not used, because it is outside of the backbone: .*cls_', text)
    assert f'{len(fresh)} fresh, because only segmentors have the pyramid behind the blocks' in text
    assert ('the head of self-supervised training' in text) == (source == 'dino_training')
    assert (COUNTERS in text) == (source != 'paddlevit')


@pytest.mark.parametrize('head', ['SemanticFPN', 'UPerNetMMSeg'])
@pytest.mark.parametrize('name', ['XCiT_T12_P16', 'XCiT_T12_P8', 'XCiT_S24_P16', 'XCiT_M24_P8'])
def test_segmentors_of_the_authors_load_whole(name, head, log):
    source = authors_segmentor(name, head)
    model = segmentor(name, head)
    loaded = load_arrays(model, Weights(source, 'torch'), source='given')
    counters = sum(key.endswith('num_batches_tracked') for key in source)
    assert loaded.used == len(model.state_dict()) == len(source) - counters
    [note] = loaded.notes
    assert note.startswith(f'{counters} not used, {COUNTERS}')
    ours = arrays_of(model)
    for key, theirs in (('backbone.pyramid.0.up1.weight', 'backbone.fpn1.0.weight'),
                        ('backbone.position.proj.bias', 'backbone.pos_embeder.token_projection.bias'),
                        ('backbone.patch_embed.2.bn._variance', 'backbone.patch_embed.proj.4.1.running_var'),
                        ('backbone.blocks.11.local.bn._mean', 'backbone.blocks.11.local_mp.bn.running_mean'),
                        ('head.classifier.weight', 'decode_head.conv_seg.weight')):
        np.testing.assert_array_equal(ours[key], source[theirs])
    if VARIANTS[name].patch == 16:
        for key, theirs in (('0.bn._mean', 'fpn1.1.running_mean'), ('0.up2.weight', 'fpn1.3.weight'),
                            ('1.up1.bias', 'fpn2.0.bias')):
            np.testing.assert_array_equal(ours[f'backbone.pyramid.{key}'], source[f'backbone.{theirs}'])
    alone = backbone(name)
    load_arrays(alone, Weights(source, 'torch'), source='given')
    assert_equal(arrays_of(alone), arrays_of(model.backbone))


def test_what_is_left_over_or_missing_is_an_error():
    source = authors_segmentor(P16)
    with pytest.raises(UserError, match='backbone.extra.weight'):
        load_arrays(segmentor(P16), Weights({**source, 'backbone.extra.weight': np.ones(2, 'float32')}, 'torch'),
                    source='given')
    del source['backbone.fpn1.3.weight']
    with pytest.raises(UserError, match=r'backbone\.pyramid\.0\.up2\.weight'):
        load_arrays(segmentor(P16), Weights(source, 'torch'), source='given')
    with pytest.raises(UserError, match=r'head\.(bias|weight)'):
        load_arrays(classifier(P16), weights('dino', P16), source='given')
    load_arrays(classifier(P16), weights('dino', P16), source='given', allow=['head.*'])


def test_the_other_patch_size_is_refused():
    with pytest.raises(UserError, match=r'patch_embed\.3'):
        load_arrays(backbone('XCiT_T12_P16'), weights('timm', P8), source='given')


def test_other_channel_counts_and_frozen_norms(tmp_path):
    file = tmp_path / 'timm.safetensors'
    save_file(timm(P16), file, metadata={'format': 'pt'})
    plain = backbone(P16, pretrained=str(file))
    wide = backbone(P16, in_channels=4, frozen_bn=True, pretrained=str(file))
    first, wanted = (model.patch_embed[0].conv.weight.numpy() for model in (wide, plain))
    np.testing.assert_allclose(first, wanted[:, [0, 1, 2, 0]] * 0.75, rtol=1e-6)
    for ours, theirs in zip(wide.blocks, plain.blocks):
        np.testing.assert_array_equal(ours.local.bn._variance.numpy(), theirs.local.bn._variance.numpy())


@over_sources
def test_variants_are_identified_in_every_source(source, monkeypatch):
    monkeypatch.setattr(models, 'VARIANTS', {name: reduced(name) for name in VARIANTS})
    for name in (P16, P8, 'XCiT_T24_P16'):
        shapes = {key[len('backbone.'):]: array.shape for key, array in
                  translation_of(weights(source, name)).arrays.items() if key.startswith('backbone.')}
        assert XCiT.identify(shapes) == name


def test_files_of_paddle(tmp_path):
    path = str(tmp_path / 'paddlevit.pdparams')
    paddle.save(paddlevit(P8), path)
    model, wanted = classifier(P8), classifier(P8)
    load_pretrained(model, path)
    load_arrays(wanted, weights('timm', P8), source='timm')
    for each in (model, wanted):
        each.eval()
    maps = paddle.to_tensor(images(1, (32, 40)))
    assert relative_difference(model(maps).numpy(), wanted(maps).numpy()) == 0.


def test_rules_are_of_names_that_models_have():
    """A rule whose target no model has would lead nowhere."""
    assert set(xcit.FORMATS) <= set(FORMATS)
    known = {key for make in (backbone, classifier, segmentor) for name in (P16, P8) for key in make(name).state_dict()}
    known |= {key for name in (P16, P8) for key in segmentor(name, 'UPerNetMMSeg').state_dict()}
    for source in SOURCES:
        for name in (P16, P8):
            assert set(translation_of(weights(source, name)).arrays) <= known | {
                'backbone.' + key for key in known}, source
