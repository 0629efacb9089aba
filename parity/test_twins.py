"""The six Twins at full width beside timm and mmsegmentation, loaded from files as their own programs write them.

Names of sources that cannot be run here are made by renaming the same weights; those tests say so.
"""
from __future__ import annotations

from collections.abc import Collection

import numpy as np
import paddle
import pytest
import torch
from cases import relative_difference
from mmseg.models.backbones.twins import LocallyGroupedSelfAttention
from safetensors.torch import save_file
from twins_numpy import local_attention
from twins_sources import AUXILIARY, HEADS, TIMM_NAMES, images, mask_is_right, source_weights

import paddleseg_ext
from paddleseg_ext.backbones.twins import VARIANTS, LocalAttention
from paddleseg_ext.engine.convert import convert
from paddleseg_ext.models.semantic_fpn import SemanticFPN
from paddleseg_ext.models.upernet import UPerNetMMSeg
from paddleseg_ext.registry import components
from parity import oracle, renaming

CLASSIFIER_SIZES = ((224, 224), (113, 75))
# At 224 every map is of whole windows, at the other size none is, so that mmsegmentation's mask is right.
SEGMENTOR_SIZES = ((224, 224), (75, 61))
CLASSES = 150
META = {'mmseg_version': '1.2.2', 'iter': 80000, 'dataset_meta': {'classes': ('wall', 'sky'), 'palette': [[1, 2, 3]]}}

over_variants = pytest.mark.parametrize('name', TIMM_NAMES)
over_heads = pytest.mark.parametrize('head', HEADS)


def our_backbone(name: str, **arguments) -> paddle.nn.Layer:
    return components('backbone')[name](norm_epsilon=1e-5, **arguments)


def our_segmentor(name: str, head: str, pretrained: str) -> paddle.nn.Layer:
    model = {'SemanticFPN': SemanticFPN, 'UPerNetMMSeg': UPerNetMMSeg}[head]
    return model(CLASSES, our_backbone(name), pretrained=pretrained)


def our_classifier(name: str, pretrained: str) -> paddle.nn.Layer:
    return paddleseg_ext.create_classifier(name, lsa_padding='zero', pretrained=pretrained)


@paddle.no_grad()
def run(model, maps: np.ndarray) -> np.ndarray:
    model.eval()
    outputs = model(paddle.to_tensor(maps))
    return (outputs[0] if isinstance(outputs, list) else outputs).numpy()


def assert_equal_weights(ours: paddle.nn.Layer, others: paddle.nn.Layer, *, beside: Collection[str] = ()) -> None:
    """Equal names and values, but for the names `beside`, which only `ours` has."""
    wanted, given = others.state_dict(), ours.state_dict()
    assert set(given) == {*wanted, *beside}
    for key, value in wanted.items():
        np.testing.assert_array_equal(given[key].numpy(), value.numpy(), err_msg=key)


def stage_norms(name: str) -> frozenset[str]:
    """What SVT's segmentors have and ImageNet classifiers have not, so that it starts fresh."""
    parts = (f'stages.{stage}.norm.{part}' for stage in range(4) for part in ('weight', 'bias'))
    return frozenset(parts if VARIANTS[name].local else ())


def save_segmentor(state: dict, path) -> str:
    torch.save({'meta': META, 'state_dict': state}, path)
    return str(path)


# Classifiers

@over_variants
def test_classifiers_of_timm(name, tmp_path, assert_close):
    judge = oracle.classifier(name)
    state = oracle.fill(judge, source_weights(oracle.shapes(judge)))
    save_file(state, tmp_path / 'model.safetensors', metadata={'format': 'pt'})
    torch.save(state, tmp_path / 'model.pth')
    expected = {size: oracle.logits(judge, images(size))['main'] for size in CLASSIFIER_SIZES}
    for file in ('model.safetensors', 'model.pth'):
        model = our_classifier(name, str(tmp_path / file))
        for size, logits in expected.items():
            assert_close(run(model, images(size)), logits, f'{file} {size[0]}x{size[1]}')


@over_variants
def test_classifiers_by_the_names_of_others(name, tmp_path):
    """By name only: the same weights under the names of the authors and of PaddleClas, not the released files."""
    judge = oracle.classifier(name)
    weights = source_weights(oracle.shapes(judge))
    state = oracle.fill(judge, weights)
    torch.save(state, tmp_path / 'timm.pth')
    torch.save({'model': state}, tmp_path / 'authors.pth')
    paddle.save(renaming.paddleclas(weights), str(tmp_path / 'paddleclas.pdparams'))
    wanted = our_classifier(name, str(tmp_path / 'timm.pth'))
    for file in ('authors.pth', 'paddleclas.pdparams'):
        assert_equal_weights(our_classifier(name, str(tmp_path / file)), wanted)
        backbone = our_backbone(name, pretrained=str(tmp_path / file))
        assert_equal_weights(backbone, wanted.backbone, beside=stage_norms(name))


# Segmentors

def test_the_sizes_are_those_where_the_mask_of_mmsegmentation_is_right():
    assert all(mask_is_right(size) for size in SEGMENTOR_SIZES)


@over_heads
@over_variants
def test_segmentors_of_mmsegmentation(name, head, tmp_path, assert_close):
    judge = oracle.segmentor(name, head)
    state = oracle.fill(judge, source_weights(oracle.shapes(judge)))
    file = save_segmentor(state, tmp_path / 'segmentor.pth')
    model = our_segmentor(name, head, file)
    for size in SEGMENTOR_SIZES:
        maps = images(size)[:1]
        expected = oracle.logits(judge, maps)
        assert_close(run(model, maps), expected['main'], f'{size[0]}x{size[1]}')
        if AUXILIARY in expected:
            with paddle.no_grad():
                ours = model.auxiliary_head(model.backbone(paddle.to_tensor(maps))[2]).numpy()
            assert_close(ours, expected[AUXILIARY], f'{size[0]}x{size[1]} auxiliary')
    assert_equal_weights(our_backbone(name, pretrained=file), model.backbone)


@over_heads
@over_variants
def test_segmentors_by_the_names_of_the_authors(name, head, tmp_path):
    """By name only: the same weights under the names of the authors' code on mmsegmentation 0.x, not their files."""
    judge = oracle.segmentor(name, head)
    state = oracle.fill(judge, source_weights(oracle.shapes(judge)))
    wanted = our_segmentor(name, head, save_segmentor(state, tmp_path / 'segmentor.pth'))
    renamed = save_segmentor(renaming.authors_segmentor(state), tmp_path / 'authors.pth')
    assert_equal_weights(our_segmentor(name, head, renamed), wanted)
    assert_equal_weights(our_backbone(name, pretrained=renamed), wanted.backbone)


@over_variants
def test_imagenet_backbones_by_the_names_of_mmsegmentation(name, tmp_path):
    """By name only: the backbone of a segmentor, bare and without norms after the stages, not the released files."""
    judge = oracle.segmentor(name, 'SemanticFPN')
    state = oracle.fill(judge, source_weights(oracle.shapes(judge)))
    wanted = our_backbone(name, pretrained=save_segmentor(state, tmp_path / 'segmentor.pth'))
    bare = {key.removeprefix('backbone.'): value for key, value in state.items()
            if key.startswith('backbone.') and 'norm_list' not in key}
    torch.save(bare, tmp_path / 'backbone.pth')
    given = our_backbone(name, pretrained=str(tmp_path / 'backbone.pth')).state_dict()
    for key in set(wanted.state_dict()) - stage_norms(name):
        np.testing.assert_array_equal(given[key].numpy(), wanted.state_dict()[key].numpy(), err_msg=key)


# Conversion

@pytest.mark.parametrize('suffix', ['pdparams', 'safetensors'])
def test_what_is_converted_loads_as_the_source_does(suffix, tmp_path):
    name = 'Twins_SVT_S'
    judge = oracle.classifier(name)
    torch.save(oracle.fill(judge, source_weights(oracle.shapes(judge))), tmp_path / 'timm.pth')
    converted = tmp_path / f'ours.{suffix}'
    convert(str(tmp_path / 'timm.pth'), str(converted))
    assert_equal_weights(our_classifier(name, str(converted)), our_classifier(name, str(tmp_path / 'timm.pth')))


# The fault in mmsegmentation's mask

@pytest.mark.parametrize('size', [(7, 9), (9, 14)], ids=['width', 'height'])
def test_where_one_side_needs_padding_mmsegmentation_masks_nothing(size, assert_close):
    """Ours is what the definition says there; mmsegmentation's is what it says without a mask."""
    judge = LocallyGroupedSelfAttention(12, num_heads=3, qkv_bias=True, window_size=7).eval()
    weights = source_weights(oracle.shapes(judge))
    oracle.fill(judge, weights)
    ours = LocalAttention(12, 3, 7, masks=True)
    ours.eval()
    state = {key: value.T for key, value in weights.items()}
    ours.set_state_dict(state)
    x = np.random.default_rng(2).normal(size=(2, *size, 12)).astype('float32')
    with torch.inference_mode():
        theirs = judge(torch.from_numpy(x.reshape(2, -1, 12)), size).numpy().reshape(x.shape)
    arguments = {'heads': 3, 'window': 7}
    assert_close(run(ours, x), local_attention(x, state, padding='mask', **arguments), 'ours, masked')
    assert_close(theirs, local_attention(x, state, padding='zero', **arguments), "mmsegmentation's, not masked")
    assert relative_difference(run(ours, x), theirs) > 0.1
