"""Twins: its layers beside NumPy, what it says of itself, its errors, and PaddleSeg's segmentors over it."""
from __future__ import annotations

import dataclasses
from math import prod

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from cases import images, relative_difference, set_visible_weights
from paddleseg.models import DeepLabV3P, OCRNet, PSPNet, SegFormer, UPerNet
from twins_numpy import global_attention, local_attention, position_encoding

import paddleseg_ext
from paddleseg_ext.backbones.twins import (
    VARIANTS,
    GlobalAttention,
    LocalAttention,
    PositionEncoding,
    Twins,
    TwinsClassifier,
    Variant,
)
from paddleseg_ext.registry import components

# Of the classifiers with 1000 classes: millions of parameters in the paper's table 1 and 2.
PUBLISHED = {'Twins_PCPVT_S': 24.1, 'Twins_PCPVT_B': 43.8, 'Twins_PCPVT_L': 60.9,
             'Twins_SVT_S': 24.0, 'Twins_SVT_B': 56.0, 'Twins_SVT_L': 99.2}
#              channels        heads         mlp ratios    depths        local
SMALL = {
    'pcpvt': Variant((4, 8, 12, 16), (1, 2, 2, 2), (2, 2, 2, 2), (2, 1, 1, 1), False),
    'svt': Variant((4, 8, 12, 16), (1, 2, 2, 2), (2, 2, 2, 2), (2, 1, 3, 1), True),
}
# Maps whose sides both fill whole windows, neither, only the width, only the height, and less than one window.
MAPS = ((14, 7), (9, 16), (9, 14), (7, 12), (3, 5))

over_variants = pytest.mark.parametrize('name', VARIANTS)
over_maps = pytest.mark.parametrize('size', MAPS, ids=lambda size: f'{size[0]}x{size[1]}')


def small(family: str, **arguments) -> Twins:
    return Twins(SMALL[family], norm_after_stage=SMALL[family].local, **arguments)


def run(layer, size, channels):
    """The layer's output, its input [2, *size, channels] and its weights."""
    weights = set_visible_weights(layer)
    layer.eval()
    x = np.random.default_rng(2).normal(size=(2, *size, channels)).astype('float32')
    with paddle.no_grad():
        return layer(paddle.to_tensor(x)).numpy(), x, weights


# Layers beside NumPy

@over_maps
@pytest.mark.parametrize('padding', ['mask', 'zero'])
def test_local_attention(size, padding):
    ours, x, weights = run(LocalAttention(12, 3, 7, masks=padding == 'mask'), size, 12)
    assert relative_difference(ours, local_attention(x, weights, heads=3, window=7, padding=padding)) < 1e-5


@over_maps
def test_padding_of_windows_takes_part_only_as_zeros(size):
    masked, _, _ = run(LocalAttention(12, 3, 7, masks=True), size, 12)
    zeros, _, _ = run(LocalAttention(12, 3, 7, masks=False), size, 12)
    whole = all(side % 7 == 0 for side in size)
    assert (relative_difference(masked, zeros) < 1e-6) == whole


@over_maps
@pytest.mark.parametrize('ratio', [1, 2, 3])
def test_global_attention(size, ratio):
    ours, x, weights = run(GlobalAttention(12, 3, ratio), size, 12)
    assert relative_difference(ours, global_attention(x, weights, heads=3, ratio=ratio)) < 1e-5


@over_maps
def test_position_encoding(size):
    ours, x, weights = run(PositionEncoding(6), size, 6)
    assert relative_difference(ours, position_encoding(x, weights)) < 1e-5


def test_padded_cells_get_no_gradient_and_give_none():
    """What lies in a padded column changes nothing: the map's last column sees a window of three columns only."""
    layer = LocalAttention(12, 3, 7, masks=True)
    set_visible_weights(layer)
    x = np.random.default_rng(3).normal(size=(1, 7, 10, 12)).astype('float32')
    with paddle.no_grad():
        whole, part = (layer(paddle.to_tensor(value)).numpy() for value in (x, x[:, :, 7:]))
    assert relative_difference(whole[:, :, 7:], part) < 1e-6


# What it says of itself

@pytest.mark.parametrize('family', SMALL)
@pytest.mark.parametrize('padding', ['mask', 'zero'])
@pytest.mark.parametrize('size', [(32, 32), (64, 96), (75, 61)])
def test_channels_and_strides_are_those_of_the_maps(family, padding, size):
    model = small(family, lsa_padding=padding)
    with paddle.no_grad():
        maps = model(paddle.to_tensor(images(1, size)))
    assert [feature.shape[1] for feature in maps] == model.feat_channels == list(SMALL[family].channels)
    for feature, stride in zip(maps, model.feat_strides):
        for side, length in zip(feature.shape[2:], size):
            assert side == (-(-length // stride) if padding == 'mask' else length // stride)


@over_variants
def test_variants_have_the_papers_size(name):
    with paddle.LazyGuard():  # names and shapes without values
        classifier = TwinsClassifier(VARIANTS[name], num_classes=1000)
    millions = sum(prod(parameter.shape) for parameter in classifier.parameters()) / 1e6
    assert PUBLISHED[name] == pytest.approx(millions, abs=0.1)


@over_variants
def test_a_variant_is_identified_by_names_and_shapes(name):
    with paddle.LazyGuard():
        model = components('backbone')[name]()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert Twins.identify(shapes) == name
    assert Twins.identify({key: shape for key, shape in shapes.items() if '.blocks.0.' not in key}) is None
    assert model.feat_channels == list(VARIANTS[name].channels)


def test_nothing_is_identified_where_no_variant_fits():
    assert Twins.identify({}) is None
    assert Twins.identify({key: tuple(value.shape) for key, value in small('svt').state_dict().items()}) is None


@pytest.mark.parametrize('family', SMALL)
def test_drop_path_rises_evenly_over_all_blocks(family):
    model = small(family, drop_path_rate=0.3)
    rates = [block.drop_path.rate for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx(np.linspace(0., 0.3, sum(SMALL[family].depths)))


def test_tables_of_unequal_length_name_the_odd_one():
    with pytest.raises(ValueError, match=r"every table needs 4 entries, one a stage, .*'heads': 3"):
        dataclasses.replace(SMALL['svt'], heads=(1, 2, 2))


# Errors

def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"lsa_padding must be 'mask' .* or 'zero' .*, but is 'same'"):
        small('svt', lsa_padding='same')
    with pytest.raises(ValueError, match='in_channels must be a whole number of at least 1, but is 0'):
        small('svt', in_channels=0)
    with pytest.raises(ValueError, match=r'drop path rate must lie in \[0, 1\), but is 1'):
        small('svt', drop_path_rate=1.)


@pytest.mark.parametrize('size', [(31, 64), (64, 31)])
def test_small_images_are_refused_with_the_minimum(size):
    message = rf'Twins needs images of at least 32×32 pixels, but got {size[0]}×{size[1]} \(height × width\)'
    for model in (small('svt'), TwinsClassifier(SMALL['pcpvt'], num_classes=2)):
        with pytest.raises(ValueError, match=message):
            model(paddle.to_tensor(images(1, size)))


def test_create_classifier():
    with paddle.LazyGuard():
        model = paddleseg_ext.create_classifier('Twins_SVT_S', num_classes=7, in_channels=4, lsa_padding='zero')
    assert model.head.weight.shape == [512, 7]
    assert model.backbone.stages[0].patch_embed.proj.weight.shape == [64, 4, 4, 4]


def test_create_classifier_errors():
    with pytest.raises(ValueError, match='Twins_SVT_XS is no classifier of paddleseg_ext; did you mean Twins_SVT_'):
        paddleseg_ext.create_classifier('Twins_SVT_XS')
    with pytest.raises(ValueError, match='resnet is no classifier of paddleseg_ext; there are .*Twins_PCPVT_B'):
        paddleseg_ext.create_classifier('resnet')
    with pytest.raises(ValueError, match='num_classes must be a whole number of at least 1, but is 0'):
        paddleseg_ext.create_classifier('Twins_SVT_S', num_classes=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'lsa'"):
        paddleseg_ext.create_classifier('Twins_SVT_S', lsa='zero')


# PaddleSeg's segmentors over it

#    name          class       arguments
SEGMENTORS = {
    'DeepLabV3P': (DeepLabV3P, {'backbone_indices': (0, 3)}),
    'OCRNet': (OCRNet, {'backbone_indices': (3,), 'ocr_mid_channels': 8, 'ocr_key_channels': 8}),
    'PSPNet': (PSPNet, {'backbone_indices': (2, 3), 'pp_out_channels': 8}),
    'SegFormer': (SegFormer, {'embedding_dim': 8}),
    'UPerNet': (UPerNet, {'backbone_indices': (0, 1, 2, 3), 'channels': 8}),
}


@pytest.mark.parametrize('family', SMALL)
@pytest.mark.parametrize('name', SEGMENTORS)
def test_paddlesegs_segmentors_take_a_training_step(name, family):
    make, arguments = SEGMENTORS[name]
    model = make(num_classes=3, backbone=small(family), **arguments)
    optimizer = paddle.optimizer.SGD(0.05, parameters=model.parameters())
    x = paddle.to_tensor(images(2, (64, 96)))
    labels = paddle.to_tensor(np.random.default_rng(4).integers(0, 3, (2, 1, 64, 96)))
    before = {key: value.numpy().copy() for key, value in model.named_parameters()}
    outputs = model(x)
    assert all(output.shape == [2, 3, 64, 96] for output in outputs)
    sum(F.cross_entropy(output, labels, axis=1) for output in outputs).backward()
    optimizer.step()
    for key, value in model.backbone.named_parameters():
        # NOTE: the norms after the stages whose maps a segmentor does not read have nothing to learn.
        if value.grad is None:
            assert key.split('.')[2] == 'norm', key
        else:
            assert np.isfinite(value.grad.numpy()).all(), key
    moved = {key for key, value in model.named_parameters() if not np.array_equal(value.numpy(), before[key])}
    assert any(key.startswith('backbone.stages.0.patch_embed') for key in moved)
