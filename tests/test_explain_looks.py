"""What `explain` shows: the weights are those that the layers use, and the cells lie where the model sees them."""
from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from cases import relative_difference, set_visible_weights
from paddleseg.transforms import Compose, Normalize, Padding, Resize

from paddleseg_ext.backbones.twins import GlobalAttention, PatchEmbedding
from paddleseg_ext.data.image_io import preprocess
from paddleseg_ext.engine import explain_looks
from paddleseg_ext.engine.explain_geometry import Frame, Grid, Point, class_centres, frame_of
from paddleseg_ext.engine.explain_looks import look_into
from paddleseg_ext.layers.attention import EXTERNAL_ATTENTIONS, CrossResolutionAttention, ExternalAttention
from paddleseg_ext.layers.cross_covariance import CrossCovarianceAttention

TOLERANCE = 1e-5


def tensor(*shape, seed=0):
    return paddle.to_tensor(np.random.default_rng(seed).normal(size=shape).astype('float32'))


def everywhere(height, width, stride):
    """The frame of an image with a point in the middle of each cell of a map."""
    points = tuple(Point(column * stride + stride // 2, row * stride + stride // 2, 'road')
                   for row in range(height) for column in range(width))
    return Frame((height * stride, width * stride), (height * stride, width * stride), (1., 1.), points)


# -- the weights are those that the layers use


@pytest.mark.parametrize('ratio, size', [(1, (3, 5)), (2, (4, 6)), (2, (5, 7)), (4, (9, 6))])
def test_global_attention_is_what_the_layer_uses(ratio, size):
    layer = GlobalAttention(12, 3, ratio)
    set_visible_weights(layer)
    x = tensor(1, *size, 12)
    look = look_into(layer, [x], everywhere(*size, 8))
    weights = look.arrays['points'].reshape(3, size[0] * size[1], -1)
    assert np.allclose(weights.sum(axis=2), 1., atol=TOLERANCE)
    assert np.allclose(look.arrays['mean'].reshape(3, -1), weights.mean(axis=1), atol=TOLERANCE)
    keys = x if ratio == 1 else layer.norm(layer.sr(x.transpose([0, 3, 1, 2])).transpose([0, 2, 3, 1]))
    value = layer.kv(keys)[..., 12:].reshape([-1, 3, 4]).numpy()
    mixed = np.einsum('hqk,khd->qhd', weights, value).reshape(1, *size, 12)
    assert relative_difference(layer.proj(paddle.to_tensor(mixed)).numpy(), layer(x).numpy()) < TOLERANCE
    assert look.rows[1].grid.cell == (8 * ratio, 8 * ratio)


def test_cross_resolution_attention_is_what_the_layer_uses():
    layer = CrossResolutionAttention(6)
    set_visible_weights(layer)
    layer.eval()
    x, key_value = tensor(1, 6, 5, 7), tensor(1, 12, 4, 4, seed=1)
    look = look_into(layer, [x, key_value], everywhere(5, 7, 8))
    weights = look.arrays['points'].reshape(35, 16)
    assert np.allclose(weights.sum(axis=1), 1., atol=TOLERANCE)
    mixed = (key_value[0, 6:].reshape([6, 16]).numpy() @ weights.T).reshape(1, 6, 5, 7)
    assert relative_difference(mixed, layer(x, key_value).numpy()) < TOLERANCE
    assert look.rows[1].grid == Grid(4, 4, (10., 14.))


@pytest.mark.parametrize('kind', EXTERNAL_ATTENTIONS)
@pytest.mark.parametrize('channels', [(8, 8), (8, 16)])
def test_slots_are_what_the_layer_uses(kind, channels):
    layer = ExternalAttention(*channels, slots=12, heads=4, kind=kind)
    set_visible_weights(layer)
    x = tensor(1, 8, 6, 5)
    look = look_into(layer, [x], everywhere(6, 5, 16))
    assert layer.training
    layer.eval()
    slots = look.arrays['slots']
    assert np.allclose(slots.sum(axis=1), 1., atol=1e-3)  # less the 1e-6 that the layer divides by
    weights = paddle.to_tensor(slots.reshape(1, 12, *slots.shape[2:]))
    mixed = F.conv2d(weights, layer.v, groups=layer.conv_groups)
    assert relative_difference(mixed.numpy(), layer(x).numpy()) < TOLERANCE
    assert look.heads == (1 if kind == 'ea' else 4)


def test_channel_attention_is_what_the_layer_uses():
    layer = CrossCovarianceAttention(12, 3)
    set_visible_weights(layer)
    layer.eval()
    x = tensor(1, 35, 12)
    look = look_into(layer, [x], everywhere(5, 7, 16))
    weights = look.arrays['channels']
    assert weights.shape == (3, 4, 4) and np.allclose(weights.sum(axis=2), 1., atol=TOLERANCE)
    value = layer.qkv(x)[0, :, 24:].reshape([35, 3, 4]).numpy()
    mixed = np.einsum('hij,lhj->lhi', weights, value)
    output = layer.proj(paddle.to_tensor(mixed.reshape(1, 35, 12)))
    assert relative_difference(output.numpy(), layer(x).numpy()) < TOLERANCE
    strength = np.linalg.norm(mixed, axis=2).T.reshape(3, 5, 7)
    assert relative_difference(look.arrays['strength'], strength) < TOLERANCE


def test_rows_show_slots_by_their_rules():
    layer = ExternalAttention(8, 8, slots=12, heads=4)
    set_visible_weights(layer)
    layer.eval()
    look = look_into(layer, [tensor(1, 8, 6, 5)], everywhere(6, 5, 16))
    slots = look.arrays['slots']
    first, at_point = look.rows[0], look.rows[1 + 8]
    for head in range(4):
        assert (first.maps[head] == slots[head, slots[head].reshape(3, -1).std(axis=1).argmax()]).all()
        best = (slots[head, :, 1, 3] / slots[head].mean(axis=(1, 2))).argmax()
        assert at_point.captions[head] == f'slot {best}' and (at_point.maps[head] == slots[head, best]).all()


def test_means_in_parts_are_means(monkeypatch):
    layer = GlobalAttention(12, 3, 2)
    set_visible_weights(layer)
    x, frame = tensor(1, 9, 7, 12), Frame((72, 56), (72, 56), (1., 1.))
    whole = look_into(layer, [x], frame)
    monkeypatch.setattr(explain_looks, 'CHUNK_ELEMENTS', 5 * 12)
    parts = look_into(layer, [x], frame)
    assert relative_difference(parts.arrays['mean'], whole.arrays['mean']) < TOLERANCE
    assert len(whole.rows) == 1 and whole.arrays['points'].shape == (3, 0, 4, 3)


# -- where cells and points are


@pytest.mark.parametrize('pads', [True, False])
@pytest.mark.parametrize('size', [(37, 53), (64, 33), (40, 40)])
def test_points_fall_into_the_patch_that_sees_them(pads, size):
    layer = PatchEmbedding(1, 4, 4, pads=pads)
    before = layer(paddle.zeros([1, 1, *size]))
    grid = frame_of(size, size, []).grid(*before.shape[1:3])
    for y, x in [(0, 0), (3, 4), (17, 30), (31, 11), (size[0] - 6, size[1] - 6)]:
        image = paddle.zeros([1, 1, *size])
        image[0, 0, y, x] = 1.
        changed = np.abs((layer(image) - before).numpy()).sum(axis=3)[0]
        assert grid.index(y + 0.5, x + 0.5) == changed.argmax() and np.count_nonzero(changed) == 1


def test_cells_beyond_the_last_fall_into_it():
    grid = frame_of((37, 53), (37, 53), []).grid(9, 13)
    assert grid.cell == (4, 4) and grid.index(36.5, 52.5) == 9 * 13 - 1


def test_maps_of_odd_strides_are_spread():
    frame = frame_of((140, 210), (140, 210), [])
    assert frame.grid(10, 15).cell == (14., 14.)
    assert frame.grid(9, 14).cell == (16, 16)
    assert frame.even_grid(4, 4).cell == (35., 52.5)


@pytest.mark.parametrize('size', [(37, 53), (224, 224), (360, 480)])
@pytest.mark.parametrize('patch', [8, 16])
def test_tokens_are_laid_out_as_xcit_makes_them(size, patch):
    rows, columns = -(-size[0] // patch), -(-size[1] // patch)
    assert frame_of(size, size, []).token_grid(rows * columns) == Grid(rows, columns, (patch, patch))
    with pytest.raises(ValueError, match='7 tokens are no map of an input of 37×53'):
        frame_of((37, 53), (37, 53), []).token_grid(7)


def test_transforms_move_points_as_they_move_the_image():
    image = np.zeros((30, 50, 3), np.uint8)
    image[10:13, 40:43] = 255
    compose = Compose([Resize(target_size=(100, 90)), Padding(target_size=(128, 96)), Resize(target_size=(64, 64)),
                       Normalize()])
    pixels, notes = preprocess(image, compose)
    frame = frame_of(image.shape[:2], pixels.shape[1:], notes, [Point(41, 11, 'car')])
    row, column = divmod(int(frame.cells(Grid(64, 64, (1., 1.)))[0]), 64)
    rows, columns = np.nonzero(pixels[0] > 0.9 * pixels[0].max())
    assert abs(row - rows.mean()) <= 1 and abs(column - columns.mean()) <= 1
    assert frame.scale == (90 / 30 * 64 / 96, 100 / 50 * 64 / 128)


def test_maps_are_painted_where_their_cells_lie():
    frame = frame_of((37, 53), (74, 106), [('resize', (37, 53))])
    values = np.arange(8 * 12, dtype='float32').reshape(8, 12)
    painted = frame.sample(values, Grid(8, 12, (8, 8)), (37, 53))
    assert painted[5, 9] == values[2 * 5 // 8, 2 * 9 // 8]
    assert np.isnan(painted[32:]).all() and np.isnan(painted[:, 48:]).all() and not np.isnan(painted[:32, :48]).any()


def test_centres_are_inside_the_largest_classes():
    labels = np.zeros((40, 60), np.int32)
    labels[:, 45:] = 3
    labels[5:8, 2:9] = 1
    centres = class_centres(labels, limit=3)
    assert [labels[y, x] for x, y in centres] == [0, 3, 1]
    assert centres[1][0] in (51, 52) and centres[2][1] == 6
    assert len(class_centres(labels, limit=2)) == 2
