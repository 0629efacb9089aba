"""Rules and formats: what each source's names become, that nothing is lost on the way, and how it is loaded."""
from __future__ import annotations

import logging
import pickle
import re

import numpy as np
import paddle
import pytest
from cases import CASES
from paddle import nn
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

from paddleseg_ext.checkpoints.formats import FORMATS, recognise, resembles, resnet, xcit
from paddleseg_ext.checkpoints.pretrained import load_arrays, load_pretrained
from paddleseg_ext.checkpoints.reading import Weights
from paddleseg_ext.checkpoints.rules import Drop, Format, Rename, Split, matches, translate, under
from paddleseg_ext.errors import UserError

PCPVT, SVT = 'Twins_PCPVT_S', 'Twins_SVT_S'
both = pytest.mark.parametrize('name', [PCPVT, SVT])


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO, 'paddleseg_ext')
    return caplog


def array(*shape):
    return np.arange(np.prod(shape), dtype='float32').reshape(shape)


# Rules

def test_templates():
    assert matches('blocks.{s}.{b}.attn.{p}', 'blocks.0.11.attn.weight') == {'s': '0', 'b': '11', 'p': 'weight'}
    assert matches('blocks.{s}.{p}', 'blocks.0.11.weight') is None
    assert matches('blocks.{tail}', 'blocks.0.11.weight') == {'tail': '0.11.weight'}
    assert matches('head.weight', 'head.weight') == {}
    assert matches('head.weight', 'head_weight') is None


def test_rules_rename_split_and_drop():
    form = Format('x', 'torch', (), (Rename('a.{i}.{p}', 'ours.{i}.{p}'), Drop('unused.{tail}', 'nobody reads it'),
                                     Split('qkv_{p}', (('q.{p}', 1), ('kv.{p}', 2)))))
    source = {'a.3.weight': array(2), 'a.3.running_mean': array(2), 'a.3.num_batches_tracked': np.array(1),
              'unused.x.y': array(1), 'qkv_weight': array(6, 2), 'other': array(1)}
    result = translate(source, form)
    assert {name: value.tolist() for name, value in result.arrays.items()} == {
        'ours.3.weight': [0, 1], 'ours.3._mean': [0, 1], 'q.weight': array(6, 2)[:2].tolist(),
        'kv.weight': array(6, 2)[2:].tolist()}
    assert result.dropped == {"PyTorch's counter of batches, which nothing reads": ['a.3.num_batches_tracked'],
                              'nobody reads it': ['unused.x.y']}
    assert result.unmatched == ['other']
    assert {*result.origins.values(), *sum(result.dropped.values(), []), *result.unmatched} == set(source)


def test_statistics_keep_their_names_in_paddles_layout():
    form = Format('x', 'paddle', (), (Rename('{tail}', '{tail}'),))
    assert list(translate({'bn._mean': array(1), 'bn.running_mean': array(1)}, form).arrays) == ['bn._mean',
                                                                                                   'bn.running_mean']


def test_rules_refuse_what_they_cannot_do():
    form = Format('x', 'torch', (), (Split('qkv', (('q', 1), ('kv', 2))), Rename('{a}.w', 'w')))
    text = r'qkv has the shape \[4\], but in this format it has 3 equal parts along its first axis'
    with pytest.raises(UserError, match=text):
        translate({'qkv': array(4)}, form)
    with pytest.raises(UserError, match='b.w and a.w both become w: the file mixes two models'):
        translate({'a.w': array(1), 'b.w': array(1)}, form)


def test_rules_under_a_prefix():
    assert under('m.', (Rename('a', 'b'), Drop('c', 'why'), Split('d', (('e', 1),)))) == (
        Rename('m.a', 'b'), Drop('m.c', 'why'), Split('m.d', (('e', 1),)))


# Formats

SOURCES = {
    'Twins classifier of timm or of its authors': (timm, 'torch'),
    'Twins classifier of PaddleClas': (paddleclas, 'paddle'),
    'Twins segmentor of its authors': (authors_segmentor, 'torch'),
    'Twins segmentor of mmsegmentation': (mmsegmentation, 'torch'),
    'Twins ImageNet backbone of mmsegmentation': (mmsegmentation_imagenet, 'torch'),
}
OURS = {
    'Twins classifier of paddleseg_ext': classifier,
    'Twins segmentor of paddleseg_ext': segmentor,
    'Twins backbone of paddleseg_ext': backbone,
}


def weights_of(title, name):
    if title in OURS:
        return Weights({key: value.numpy() for key, value in OURS[title](name).state_dict().items()}, 'paddle')
    make, layout = SOURCES[title]
    return Weights(make(name), layout)


def test_every_format_is_tested():
    # Those of XCiT are in test_xcit_checkpoints.py, those of ResNet in test_resnet_checkpoints.py.
    assert {form.name for form in FORMATS if form not in (*xcit.FORMATS, *resnet.FORMATS)} == {
        *SOURCES, *OURS, 'RTFormer of PaddleSeg or of paddleseg_ext'}


@both
@pytest.mark.parametrize('title', [*SOURCES, *OURS])
def test_recognised_by_its_names_and_consumed_whole(title, name):
    weights = weights_of(title, name)
    form = recognise(weights.arrays, weights.layout)
    assert form.name == title
    result = translate(weights.arrays, form)
    assert result.unmatched == []
    assert {*result.origins.values(), *sum(result.dropped.values(), [])} == set(weights.arrays)
    other = {'torch': 'paddle', 'paddle': 'torch'}[weights.layout]
    assert getattr(recognise(weights.arrays, other), 'name', None) != title


@pytest.mark.parametrize(('names', 'what'), [
    (['patch_embed.proj.weight', 'layers.0.blocks.1.attn.relative_position_bias_table'], 'a Swin Transformer'),
    (['layer1.0.conv1.weight', 'layer4.0.conv1.weight', 'fc.weight'], 'a ResNet with other blocks'),
    (['backbone.stages.0.0.gamma', 'decode_head.conv_seg.weight'], 'a segmentor of mmsegmentation'),
    (['something.weight'], None)])
def test_what_is_not_ours_is_called_what_it_is(names, what):
    assert recognise(names, None) is None and resembles(names) == what


# Loading: all sources of the same weights give the same backbone

def in_our_names(name):
    """The backbone's arrays of timm's weights, written out here by hand."""
    changes = ((r'patch_embeds\.(\d)\.', r'stages.\1.patch_embed.'), (r'blocks\.(\d)\.', r'stages.\1.blocks.'),
               (r'pos_block\.(\d)\.proj\.0', r'stages.\1.position.proj'))

    def renamed(key):
        return next(re.sub(f'^{old}', new, key) for old, new in changes if re.match(old, key))

    return {renamed(key): value.T if value.ndim == 2 else value for key, value in timm(name).items()
            if not key.startswith(('norm.', 'head.'))}


def assert_holds(model, arrays, *, except_for=r'$^'):
    for key, value in model.state_dict().items():
        if not re.search(except_for, key):
            np.testing.assert_array_equal(value.numpy(), arrays[key], err_msg=key)


@both
@pytest.mark.parametrize('title', ['Twins classifier of timm or of its authors', 'Twins classifier of PaddleClas',
                                   'Twins segmentor of its authors'])
def test_a_backbone_takes_its_part_and_linear_weights_are_turned(title, name, log):
    model = backbone(name)
    load_arrays(model, weights_of(title, name), source='some.pth')
    stage_norms = r'^stages\.\d\.norm'
    assert_holds(model, in_our_names(name), except_for=stage_norms)
    segments = 'segmentor' in title
    assert (f'not used, because it is outside of the backbone: {"neck" if segments else "norm"}' in log.text)
    fresh = 'fresh, because ImageNet classifiers have no norm after the stages'
    assert (fresh in log.text) == (name == SVT and not segments)
    if segments:
        assert '4 not used, because the ImageNet classifier, which the segmentor carries and does not use' in log.text


@both
def test_attention_of_mmsegmentation_is_split(name):
    model, source = backbone(name), mmsegmentation(name)
    load_arrays(model, Weights(source, 'torch'), source='some.pth')
    whole = source['backbone.layers.1.1.attn.attn.in_proj_weight']
    attention = model.stages[1].blocks[1].attn
    np.testing.assert_array_equal(attention.q.weight.numpy(), whole[:8].T)
    np.testing.assert_array_equal(attention.kv.weight.numpy(), whole[8:].T)
    np.testing.assert_array_equal(attention.kv.bias.numpy(), source['backbone.layers.1.1.attn.attn.in_proj_bias'][8:])
    np.testing.assert_array_equal(model.stages[2].blocks[0].mlp.fc2.weight.numpy(),
                                  source['backbone.layers.2.0.ffn.layers.1.weight'].T)


@both
def test_an_imagenet_backbone_of_mmsegmentation(name, log):
    model, source = backbone(name), mmsegmentation_imagenet(name)
    load_arrays(model, Weights(source, 'torch'), source='alt_gvt_small.pth')
    position = model.stages[3].position.proj.weight.numpy()
    np.testing.assert_array_equal(position, source['position_encodings.3.proj.weight'])
    assert 'alt_gvt_small.pth (Twins ImageNet backbone of mmsegmentation)' in log.text
    assert '2 not used, because the norm of the ImageNet classifier, of which the rest is not there' in log.text


@both
@pytest.mark.parametrize('make', [timm, paddleclas])
def test_classifiers_load_whole(make, name):
    model = classifier(name)
    load_arrays(model, Weights(make(name), 'paddle' if make is paddleclas else 'torch'), source='some file')
    assert_holds(model, {**{'backbone.' + key: value for key, value in in_our_names(name).items()},
                         'norm.weight': timm(name)['norm.weight'], 'norm.bias': timm(name)['norm.bias'],
                         'head.weight': timm(name)['head.weight'].T, 'head.bias': timm(name)['head.bias']})


@both
@pytest.mark.parametrize('head', ['SemanticFPN', 'UPerNetMMSeg'])
@pytest.mark.parametrize('make', [mmsegmentation, authors_segmentor])
def test_segmentors_load_whole(make, head, name):
    model, source = segmentor(name, head), make(name, head)
    load_arrays(model, Weights(source, 'torch'), source='some.pth')
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    pairs = {'SemanticFPN': {'head.scales.3.2.bn._variance': 'decode_head.scale_heads.3.4.bn.running_var',
                             'neck.outputs.1.weight': 'neck.fpn_convs.1.conv.weight'},
             'UPerNetMMSeg': {'head.pools.3.conv.weight': 'decode_head.psp_modules.3.1.conv.weight',
                              'head.fuse.bn._mean': 'decode_head.fpn_bottleneck.bn.running_mean',
                              'auxiliary_head.convs.0.conv.weight': 'auxiliary_head.convs.0.conv.weight'}}[head]
    for ours, theirs in {**pairs, 'head.classifier.weight': 'decode_head.conv_seg.weight'}.items():
        np.testing.assert_array_equal(state[ours], source[theirs])


def test_without_an_auxiliary_head_its_weights_are_dropped(log):
    model = segmentor(SVT, 'UPerNetMMSeg', use_aux_head=False)
    load_arrays(model, Weights(mmsegmentation(SVT, 'UPerNetMMSeg'), 'torch'), source='some.pth')
    assert 'not used, because the model has no auxiliary_head: auxiliary_head.' in log.text


def test_our_own_files_load_into_the_whole_and_into_the_backbone(tmp_path):
    source = segmentor(SVT)
    paddle.save(source.state_dict(), str(tmp_path / 'iter_1.pdparams'))
    whole, part = segmentor(SVT, pretrained=str(tmp_path / 'iter_1.pdparams')), backbone(SVT)
    arrays = {key: value.numpy() for key, value in source.state_dict().items()}
    assert_holds(whole, arrays)
    load_pretrained(part, str(tmp_path / 'iter_1.pdparams'))
    assert_holds(part, {key[len('backbone.'):]: value for key, value in arrays.items()})
    save_file({key: value.numpy() for key, value in part.state_dict().items()}, tmp_path / 'part.safetensors',
              metadata={'format': 'pd'})
    again = backbone(SVT, pretrained=str(tmp_path / 'part.safetensors'))
    assert_holds(again, {key: value.numpy() for key, value in part.state_dict().items()})


# Channels

@pytest.mark.parametrize('channels', [1, 4, 7])
def test_the_first_convolution_is_adapted_and_says_so(channels, log):
    model = backbone(PCPVT, in_channels=channels)
    load_arrays(model, Weights(timm(PCPVT), 'torch'), source='some.pth')
    weight = timm(PCPVT)['patch_embeds.0.proj.weight']
    ours = model.stages[0].patch_embed.proj.weight.numpy()
    for channel in range(channels):
        np.testing.assert_allclose(ours[:, channel], weight[:, channel % 3] * 3 / channels, rtol=1e-6)
    assert (f'stages.0.patch_embed.proj.weight adapted from 3 to {channels} input channels (repeated and rescaled)'
            in log.text)


def test_three_channels_are_not_adapted(log):
    load_arrays(backbone(PCPVT), Weights(timm(PCPVT), 'torch'), source='some.pth')
    assert 'adapted' not in log.text


def test_rtformer_is_adapted_too(log, tmp_path):
    case = CASES[0]
    source = case.build()
    paddle.save(source.state_dict(), str(tmp_path / 'model.pdparams'))
    arguments = {'num_classes': 5, 'in_channels': 6, 'pretrained': str(tmp_path / 'model.pdparams'), **case.arguments}
    model = case.model_class(**arguments)
    np.testing.assert_allclose(model.conv1[0].weight[:, 3:].numpy(), source.conv1[0].weight.numpy() / 2, rtol=1e-6)
    assert 'conv1.0.weight adapted from 3 to 6 input channels' in log.text


# Errors

def refusal(model, arrays, layout='torch', **arguments) -> str:
    before = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_arrays(model, Weights(arrays, layout), source='some.pth', **arguments)
    assert_holds(model, before)  # a refused file changes nothing
    return str(caught.value)


def test_a_backbone_alone_is_refused_for_a_whole_model():
    text = refusal(segmentor(SVT), timm(SVT))
    assert text == ('some.pth (Twins classifier of timm or of its authors) fits the backbone of SemanticFPN but none '
                    'of its heads; give it as `pretrained` of the backbone, inside of `backbone:`, not of the whole '
                    'model, or name the heads in pretrained_allow.')


def test_unless_its_heads_may_start_fresh(log):
    load_arrays(segmentor(SVT), Weights(timm(SVT), 'torch'), source='some.pth', allow=['neck.*', 'head.*', 'norm.*'])
    assert 'left over: norm.weight, norm.bias, head.weight, head.bias' in log.text


def test_another_variant_says_what_it_is_and_what_is_missing():
    text = refusal(backbone(PCPVT), timm(SVT))
    assert text.startswith('some.pth (Twins classifier of timm or of its authors) does not fit Twins: ')
    assert 'missing in it: stages.0.blocks.0.attn.q.weight' in text and 'unknown to the model' in text
    assert text.endswith('name the parts that may differ in pretrained_allow, such as "head.*".')


def test_another_architecture_says_what_it_is():
    other = {'layer1.0.conv1.weight': array(1), 'layer4.0.conv1.weight': array(1), 'fc.weight': array(1)}
    text = refusal(backbone(PCPVT), other)
    assert text.startswith('some.pth (looks like a ResNet with other blocks, which is none of the formats read here) '
                           'does not fit Twins: 0 of ')
    assert 'Twins classifier of timm or of its authors) does not fit Linear' in refusal(nn.Linear(2, 2), timm(SVT))


def test_names_that_no_rule_knows_are_errors():
    source = {**mmsegmentation(SVT), 'backbone.layers.0.0.gamma': array(4), 'decode_head.extra.weight': array(1)}
    text = refusal(segmentor(SVT), source)
    assert '2 unknown to the model: backbone.layers.0.0.gamma, decode_head.extra.weight' in text
    assert '1 unknown to the model: backbone.layers.0.0.gamma' in refusal(backbone(SVT), source)


def test_another_number_of_classes_must_be_allowed(log):
    source = mmsegmentation(SVT)
    model = segmentor(SVT, num_classes=3)
    assert '2 of another shape: head.classifier.weight [5, 6, 1, 1] (model: [3, 6, 1, 1])' in refusal(model, source)
    load_arrays(model, Weights(source, 'torch'), source='some.pth', allow=['head.classifier.*'])
    assert 'started fresh: head.classifier.weight, head.classifier.bias' in log.text


def test_left_over_names_may_be_allowed_by_their_own_name(log):
    source = {**timm(SVT), 'blocks_extra.weight': array(1)}
    assert '1 unknown to the model: blocks_extra.weight' in refusal(backbone(SVT), source)
    load_arrays(backbone(SVT), Weights(source, 'torch'), source='some.pth', allow=['blocks_extra.*'])
    assert 'left over: blocks_extra.weight' in log.text


def test_patterns_that_fit_nothing_and_no_list_are_errors():
    text = refusal(backbone(SVT), timm(SVT), allow=['haed.*', 'stages.*'])
    assert text == ("pretrained_allow: 'haed.*' fits no name, neither of the model nor of some.pth; remove it or "
                    'correct it.')
    assert 'must be a list of patterns' in refusal(backbone(SVT), timm(SVT), allow='stages.*')


def test_a_wrong_layout_is_never_turned_by_shape():
    """Square matrices would fit either way; those that are not square betray a file that claims the other layout."""
    text = refusal(backbone(SVT), paddleclas(SVT), 'torch')
    assert 'of another shape: stages.0.blocks.0.attn.qkv.weight [12, 4] (model: [4, 12])' in text


def test_yaml_arguments_reach_the_loader(tmp_path):
    path = tmp_path / 'timm.safetensors'
    save_file(timm(SVT), path, metadata={'format': 'pt'})
    with pytest.raises(UserError, match="pretrained_allow: 'haed' fits no name"):
        backbone(SVT, pretrained=str(path), pretrained_allow=['haed'])
    rtformer = tmp_path / 'rtformer.pdparams'
    rtformer.write_bytes(pickle.dumps({'x': array(1)}))
    with pytest.raises(UserError, match="pretrained_allow: 'haed' fits no name"):
        CASES[0].model_class(num_classes=5, pretrained=str(rtformer), pretrained_allow=['haed'], **CASES[0].arguments)
