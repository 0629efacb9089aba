"""What `explain` shows of visual transformers and of Twins' windows: the shares are those that the layers use."""
from __future__ import annotations

import json

import cv2
import numpy as np
import paddle
import pytest
import visual_transformers_numpy as oracle
from cases import arrays_of, relative_difference, visible
from numpy_heads import Weights
from paddleseg.transforms import Compose, Normalize
from PIL import Image

from paddleseg_ext.backbones import resnet
from paddleseg_ext.backbones.twins import LocalAttention
from paddleseg_ext.backbones.vt_resnet import VTResNet
from paddleseg_ext.engine.explain import INDEX, ExplainOptions, chosen_layers, explain_image
from paddleseg_ext.engine.explain_geometry import Frame, Grid, Point
from paddleseg_ext.engine.explain_looks import Look, Row, look_into
from paddleseg_ext.engine.explain_picture import GAP, PANEL, heat_over_image, write_look
from paddleseg_ext.errors import UserError
from paddleseg_ext.layers.projector import Projector
from paddleseg_ext.layers.token_relations import TokenTransformer
from paddleseg_ext.layers.tokenizers import FilterTokenizer, RecurrentTokenizer
from paddleseg_ext.models.vt_fpn import VTFPN

TOLERANCE = 1e-5
GRID = Grid(4, 6, (16, 16))
SIZE = np.array([PANEL, round(PANEL * 64 / 96)])  # width and height of a map of an image of 64×96


def tensor(*shape, seed=0):
    return paddle.to_tensor(np.random.default_rng(seed).normal(size=shape).astype('float32'))


def frame_with(points, height, width, stride):
    return Frame((height * stride, width * stride), (height * stride, width * stride), (1., 1.),
                 tuple(Point(x, y, 'road') for x, y in points))


def everywhere(height, width, stride=16):
    """The frame of an image with a point in the middle of each cell of a map."""
    return frame_with([(column * stride + stride // 2, row * stride + stride // 2)
                       for row in range(height) for column in range(width)], height, width, stride)


# -- the layers again, in NumPy


def projected(projection, x):
    """A convolution over single positions, in groups, of [C, n]."""
    weight = projection.weight.numpy()
    return oracle.matrix(weight, len(x) // weight.shape[1]).T @ x


def tokens_from(pooling, x, shares):
    """Tokens [T, L] of a map [1, C, H, W] and the shares [L, H, W] that each takes of its positions."""
    attention = shares.reshape(1, len(shares), -1).transpose(0, 2, 1)
    groups = x.shape[1] // pooling.value.weight.shape[1]
    return oracle.pooled(x.numpy(), attention, Weights(arrays_of(pooling)), groups)[0].T


@pytest.mark.parametrize('position_encoding', [True, False])
def test_filter_tokenizers_use_the_shares_shown(position_encoding):
    layer, _ = visible(FilterTokenizer(8, 5, 16, groups=2, position_encoding=position_encoding))
    x = tensor(1, 8, 9, 6)
    look = look_into(layer, [x], everywhere(9, 6))
    shares = look.arrays['tokens'].astype(np.float64)
    assert shares.shape == (5, 9, 6) and np.allclose(shares.sum(axis=(1, 2)), 1., atol=TOLERANCE)
    assert relative_difference(tokens_from(layer.pooling, x, shares), layer(x)[0].numpy()) < TOLERANCE
    row, = look.rows
    assert (row.maps == look.arrays['tokens']).all() and row.even == 1 / 54 and row.grid == Grid(9, 6, (16, 16))
    assert list(look.numbers) == list(range(5)) and look.unit == 'token'


@pytest.mark.parametrize('count, numbers', [(6, [3, 4, 5]), (5, [3, 4]), (3, [2])])
def test_recurrent_tokenizers_use_the_shares_shown(count, numbers):
    layer, _ = visible(RecurrentTokenizer(8, count, 16, groups=2))
    x, tokens = tensor(1, 8, 9, 6), tensor(1, 16, count, seed=1)
    look = look_into(layer, [x, tokens], everywhere(9, 6))
    shares = look.arrays['tokens'].astype(np.float64)
    assert np.allclose(shares.sum(axis=(1, 2)), 1., atol=TOLERANCE)
    after = layer(x, tokens)[0].numpy()
    assert list(look.numbers) == numbers and len(shares) == len(numbers)
    assert (after[:, :numbers[0]] == tokens[0, :, -numbers[0]:].numpy()).all()
    assert relative_difference(tokens_from(layer.pooling, x, shares), after[:, numbers]) < TOLERANCE
    assert f'token {numbers[0]} looks for' in look.shows


def test_projectors_use_the_shares_shown():
    layer, _ = visible(Projector(8, 16, groups=2))
    x, tokens = tensor(1, 8, 5, 7), tensor(1, 16, 6, seed=1)
    look = look_into(layer, [x, tokens], everywhere(5, 7))
    shares = look.arrays['tokens'].astype(np.float64)
    assert shares.shape == (6, 5, 7) and np.allclose(shares.sum(axis=0), 1., atol=TOLERANCE)
    taken = np.einsum('cl,lhw->chw', projected(layer.value, tokens[0].numpy()), shares)
    assert relative_difference(x[0].numpy() + taken, layer(x, tokens)[0].numpy()) < TOLERANCE
    assert look.rows[0].captions[2] == f'{100 * shares[2].mean():.3g} % of all' and look.rows[0].even == 1 / 6


def test_points_show_the_tokens_that_they_take_most_from():
    layer, _ = visible(Projector(8, 16))
    look = look_into(layer, [tensor(1, 8, 5, 7), tensor(1, 16, 6, seed=1)], everywhere(5, 7))
    shares = look.arrays['tokens'][:, 3, 2]
    row = look.rows[1 + 3 * 7 + 2]
    assert row.numbers == tuple(sorted(range(6), key=lambda token: -shares[token])[:4])
    assert (row.maps == look.arrays['tokens'][list(row.numbers)]).all() and row.point == 3 * 7 + 2
    assert row.captions[0] == f'{100 * shares.max():.3g} % there'


def test_transformers_use_the_shares_shown():
    layer, _ = visible(TokenTransformer(16, groups=2))
    tokens = tensor(1, 16, 6)
    look = look_into(layer, [tokens], everywhere(2, 2))
    shares = look.arrays['tokens'][0].astype(np.float64)
    assert shares.shape == (6, 6) and np.allclose(shares.sum(axis=1), 1., atol=TOLERANCE)
    between = tokens[0].numpy() @ (np.eye(6) + shares.T)
    after = between + projected(layer.fc2, np.maximum(projected(layer.fc1, between), 0))
    assert relative_difference(after, layer(tokens)[0].numpy()) < TOLERANCE
    assert look.rows[0].grid is None and look.rows[0].even == 1 / 6


# -- Twins' windows


def local_attention(masks):
    return visible(LocalAttention(12, 3, 4, masks=masks))[0]


@pytest.mark.parametrize('masks', [True, False])
@pytest.mark.parametrize('size', [(8, 4), (9, 6), (3, 5)])
def test_windows_use_the_shares_shown(masks, size):
    layer = local_attention(masks)
    x = tensor(1, *size, 12)
    look = look_into(layer, [x], everywhere(*size, 8))
    shares = look.arrays['points'].reshape(3, size[0] * size[1], -1).astype(np.float64)
    to_padding = 1. - shares.sum(axis=2)
    fits = size == (8, 4)
    assert (np.abs(to_padding).max() < TOLERANCE) == (masks or fits)
    bias = layer.qkv.bias.numpy()[24:].reshape(3, 4)  # all that padding has for a value
    value = layer.qkv(x)[..., 24:].reshape([-1, 3, 4]).numpy()
    mixed = np.einsum('hqk,khd->qhd', shares, value) + np.einsum('hq,hd->qhd', to_padding, bias)
    expected = mixed.reshape(-1, 12) @ layer.proj.weight.numpy() + layer.proj.bias.numpy()
    assert relative_difference(expected, layer(x).numpy().reshape(-1, 12)) < TOLERANCE


@pytest.mark.parametrize('masks', [True, False])
def test_windows_end_where_they_end_and_means_are_theirs(masks):
    look = look_into(local_attention(masks), [tensor(1, 9, 6, 12)], everywhere(9, 6, 8))
    points, mean = look.arrays['points'].reshape(3, 9, 6, 9, 6), look.arrays['mean']
    window = points[:, 4:8, 4:]
    assert (window[..., 4:8, 4:] > 0).all()
    outside = window.copy()
    outside[..., 4:8, 4:] = 0
    assert not outside.any()
    assert np.allclose(mean[:, 4:8, 4:], window.mean(axis=(1, 2))[:, 4:8, 4:], atol=TOLERANCE)
    at_point = look.rows[1 + 5 * 6 + 4]
    assert at_point.even == (1 / 8 if masks else 1 / 16)
    lost = 1 - at_point.maps.sum(axis=(1, 2))
    assert masks == (np.abs(lost).max() < TOLERANCE) == (at_point.captions == ())
    assert masks or [float(caption.split()[0]) for caption in at_point.captions] == pytest.approx(100 * lost, rel=0.01)


def test_windows_can_be_seen_without_points():
    look = look_into(local_attention(True), [tensor(1, 9, 6, 12)], frame_with([], 9, 6, 8))
    assert len(look.rows) == 1 and look.arrays['points'].shape == (3, 0, 9, 6)


# -- a whole model


@pytest.fixture(scope='module')
def model():
    backbone = VTResNet(resnet.Variant(1, (1, 1, 1, 2), (8, 8, 16, 16)), tokens=4, token_channels=16, groups=2)
    return visible(VTFPN(5, backbone, fpn_channels=8, tokens=3, token_channels=16, groups=2))[0]


def explain(model, folder, **options):
    path = folder / 'street.png'
    noise = np.random.default_rng(0).integers(0, 255, (45, 70, 3)).astype(np.uint8)
    path.write_bytes(cv2.imencode('.png', noise)[1].tobytes())
    return explain_image(model, path, Compose([Normalize()]), folder / 'out', ExplainOptions(**options),
                         names=lambda count: [f'class {index}' for index in range(count)])


def test_the_last_module_and_every_level_are_looked_into(model):
    assert list(chosen_layers(model)) == [
        *(f'backbone.transformers.1.{part}' for part in ('tokenizer', 'relation', 'projector')),
        *(f'neck.tokenizers.{level}' for level in range(4)), 'neck.relation',
        *(f'neck.projectors.{level}' for level in range(4))]
    assert list(chosen_layers(model, ['*.0.tokenizer'])) == ['backbone.transformers.0.tokenizer']


def test_pictures_and_numbers_are_those_of_the_model(model, tmp_path):
    seen = {}
    hook = model.neck.projectors[1].register_forward_post_hook(
        lambda layer, given, output: seen.update(x=given[0], tokens=given[1], y=output))
    layers = ('backbone.transformers.1.*', 'neck.tokenizers.0', 'neck.projectors.1')
    pictures = explain(model, tmp_path, layers=layers, points=((30, 20),), save_arrays=True)
    hook.remove()
    index = json.loads((tmp_path / 'out' / 'street' / INDEX).read_text())
    assert [entry['layer'] for entry in index['pictures']] == list(chosen_layers(model, layers))
    entries = {entry['layer']: entry for entry in index['pictures']}
    for picture, entry in zip(pictures, index['pictures']):
        with Image.open(picture) as opened:
            assert min(opened.size) > 300
        for name, axes in entry['arrays']['axes'].items():
            array = np.load(picture.parent / entry['arrays']['file'])[name]
            assert array.ndim == len(axes.split(', ')) and len(array) == entry['all_heads']
    assert entries['backbone.transformers.1.tokenizer']['heads'] == [2, 3]
    assert entries['backbone.transformers.1.tokenizer']['first_head'] == 2
    assert entries['neck.projectors.1']['heads'] == list(range(12)) and entries['neck.projectors.1']['unit'] == 'token'
    assert entries['neck.projectors.1']['rows'][1].startswith('the tokens that point 1 (30, 20), class')
    shares = np.load(pictures[-1].parent / 'neck.projectors.1.npz')['tokens']
    taken = np.einsum('cl,lhw->chw', projected(model.neck.projectors[1].value, seen['tokens'][0].numpy()), shares)
    assert relative_difference(seen['x'][0].numpy() + taken, seen['y'][0].numpy()) < TOLERANCE


def test_tokens_are_those_asked_for(model, tmp_path):
    def drawn(name, heads=None):
        explain(model, tmp_path, layers=(name,), heads=heads)
        return json.loads((tmp_path / 'out' / 'street' / INDEX).read_text())['pictures'][0]['heads']

    assert drawn('neck.tokenizers.0', (2, 0, 99)) == [0, 2]
    assert drawn('neck.projectors.0', ()) == list(range(12))
    assert drawn('*.1.tokenizer', (3,)) == [3]
    with pytest.raises(UserError, match=r'--heads 0 1: backbone\.transformers\.1\.tokenizer has the tokens 2 to 3;'):
        drawn('*.1.tokenizer', (0, 1))
    assert drawn('neck.relation', (7,)) == [0]


@pytest.mark.parametrize('numbers, left_out', [
    ((2,), []),
    ((0, 1), ['backbone.transformers.1.tokenizer has the tokens 2 to 3']),
    ((3,), [f'neck.tokenizers.{level} has the tokens 0 to 2' for level in range(4)]),
])
def test_default_layers_without_the_tokens_asked_for_are_left_out(numbers, left_out, model, tmp_path, caplog):
    pictures = explain(model, tmp_path, heads=numbers)
    index = json.loads((tmp_path / 'out' / 'street' / INDEX).read_text())
    drawn = {entry['layer']: entry['heads'] for entry in index['pictures']}
    without = [text.split()[0] for text in left_out]
    assert list(drawn) == [name for name in chosen_layers(model) if name not in without]
    assert all(heads == ([0] if name.endswith('relation') else list(numbers)) for name, heads in drawn.items())
    assert sorted(path.name for path in pictures[0].parent.iterdir()) == sorted(
        [INDEX] + [f'{name}.png' for name in drawn])
    flag = f'--heads {" ".join(map(str, numbers))}'
    assert [record.getMessage() for record in caplog.records] == [
        f'{flag}: {text}, so it is left out.' for text in left_out]


def test_layers_asked_for_that_have_no_such_token_are_refused_before_any_is_drawn(model, tmp_path):
    """The first has it, and so would be drawn first."""
    with pytest.raises(UserError, match=r'^--heads 3: neck\.tokenizers\.0 has the tokens 0 to 2; choose some of them'):
        explain(model, tmp_path, layers=('*.1.tokenizer', 'neck.relation', 'neck.tokenizers.0'), heads=(3,),
                save_arrays=True)
    assert not (tmp_path / 'out').exists()


def lights_of(look, folder, heads):
    """The picture over a black image of 64×96, and left and top of everything that has the brightest colour."""
    write_look(look, np.zeros((64, 96, 3), np.uint8), frame_with([(5, 5)], 4, 6, 16), folder / 'a.png', layer='x',
               heads=heads)
    with Image.open(folder / 'a.png') as opened:
        pixels = np.array(opened.convert('RGB')).astype(int)
    bright = np.rint(255 * heat_over_image(np.ones((1, 1)), np.zeros((1, 1, 3), np.uint8), 1.)[0, 0])
    mask = (np.abs(pixels - bright) <= 1).all(axis=2).astype(np.uint8)
    return pixels, cv2.connectedComponentsWithStats(mask)[2][1:, :2]


def test_maps_of_tokens_stand_four_abreast(tmp_path):
    """Map n has its light in cell n, so the lights say where each map stands."""
    weights = np.eye(17, 24, dtype='float32').reshape(17, 4, 6)
    look = Look('what is shown', (Row('tokens', weights, GRID, even=1 / 24),), {}, {}, averages=False, unit='token',
                first=3)
    numbers = list(look.numbers)
    heights, widths = zip(*(lights_of(look, tmp_path, numbers[:count])[0].shape[:2] for count in (1, 4, 5)))
    assert heights[0] == heights[1] and widths[0] < widths[1] == widths[2]
    line = heights[2] - heights[1]
    pixels, lights = lights_of(look, tmp_path, numbers[:16])
    assert pixels.shape == (heights[1] + 3 * line, widths[1], 3)
    first = lights[lights.sum(axis=1).argmin()]
    expected = [first + [n % 4 * (PANEL + GAP), n // 4 * line] + SIZE * [n % 6 / 6, n // 6 / 4] for n in range(16)]
    assert len(lights) == 16 and all(np.abs(lights - place).max(axis=1).min() <= 1 for place in expected)


def test_rows_of_one_map_stand_in_pairs(tmp_path):
    weights = np.eye(3, 24, dtype='float32').reshape(3, 1, 4, 6)
    rows = tuple(Row('row', each, GRID, even=1 / 24) for each in weights)
    one, two, three = (lights_of(Look('what is shown', rows[:count], {}, {}, averages=True), tmp_path, [0])
                       for count in (1, 2, 3))
    assert one[0].shape[0] == two[0].shape[0] and one[0].shape[1] < two[0].shape[1]
    line = three[0].shape[0] - two[0].shape[0]
    first = three[1][three[1].sum(axis=1).argmin()]
    expected = [first, first + [2 * (PANEL + GAP) + SIZE[0] / 6, 0], first + [SIZE[0] / 3, line]]
    assert line > SIZE[1] and all(np.abs(three[1] - place).max(axis=1).min() <= 1 for place in expected)
