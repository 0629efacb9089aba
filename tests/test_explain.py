"""`explain`: which layers, what is written, what is refused, and the command."""
from __future__ import annotations

import json
import logging

import cv2
import numpy as np
import paddle
import pytest
import yaml
from cases import CASES, images, relative_difference, set_visible_weights
from paddleseg.transforms import Compose, Normalize, Resize
from PIL import Image
from tiny_segmentation import CLASSES, TinyModel, write_scenes

from paddleseg_ext.backbones.xcit import Variant, XCiT
from paddleseg_ext.cli.main import main
from paddleseg_ext.engine.explain import INDEX, ExplainOptions, chosen_layers, explain_image, visible_layers
from paddleseg_ext.engine.explain_geometry import Grid, frame_of
from paddleseg_ext.engine.explain_looks import Look, Row
from paddleseg_ext.engine.explain_picture import GAP, heat_over_image, write_look
from paddleseg_ext.errors import UserError
from paddleseg_ext.models.semantic_fpn import SemanticFPN

NAMES = ['road', 'car', 'tree', 'sky', '人$行']
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def fresh_log():
    yield
    log = logging.getLogger('paddleseg_ext')
    log.handlers.clear()
    log.propagate = True


def case(name):
    return next(each for each in CASES if each.name == name).build()


def tiny_xcit():
    model = SemanticFPN(num_classes=5, fpn_channels=8, head_channels=8,
                        backbone=XCiT(Variant(16, 6, 2, 1., True, 16), out_indices=[0, 1, 3, 4]))
    set_visible_weights(model)
    model.eval()
    return model


# -- which layers


@pytest.mark.parametrize('name, expected', [
    ('rtformer', ['layer4.attn_l', 'layer4.attn_h', 'layer5.attn_l', 'layer5.attn_h']),
    ('semantic_fpn_pcpvt', [f'backbone.stages.{block}.attn' for block in ('0.blocks.0', '1.blocks.1', '2.blocks.0',
                                                                         '3.blocks.0')]),
    ('semantic_fpn_svt', [f'backbone.stages.{block}.attn' for block in ('0.blocks.1', '1.blocks.0', '2.blocks.1',
                                                                       '3.blocks.1')]),
])
def test_the_last_layer_of_each_stage_is_looked_into(name, expected):
    assert list(chosen_layers(case(name))) == expected


def test_layers_behind_the_maps_are_not_looked_into_unless_asked(tmp_path):
    model = tiny_xcit()
    assert list(chosen_layers(model)) == [f'backbone.blocks.{block}.attn' for block in (0, 1, 3, 4)]
    with pytest.raises(UserError, match=r'the model does not run backbone\.blocks\.5\.attn'):
        explain(model, tmp_path, size=(48, 80), layers=('*.5.attn',))


def test_patterns_choose_layers_and_must_match():
    model = case('rtformer')
    assert list(chosen_layers(model, ['*.attn_h'])) == ['layer4.attn_h', 'layer5.attn_h']
    assert list(chosen_layers(model, ['layer5*', 'layer4.attn_?'])) == list(visible_layers(model))
    with pytest.raises(UserError, match=r'--layers: stage\* matches no layer .* layer4\.attn_l, layer4\.attn_h'):
        chosen_layers(model, ['layer4*', 'stage*'])


def test_models_without_such_layers_are_refused():
    with pytest.raises(UserError, match='no layer of TinyModel can be looked into.*GlobalAttention'):
        chosen_layers(TinyModel())


# -- pictures and files


def explain(model, folder, *, size=(45, 70), name='straße 1.png', transforms=(), **options):
    path = folder / name
    if not path.exists():
        noise = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
        path.write_bytes(cv2.imencode('.png', noise)[1].tobytes())
    compose = Compose([*transforms, Normalize()])
    return explain_image(model, path, compose, folder / 'out', ExplainOptions(**options),
                         names=lambda count: NAMES[:count])


@pytest.mark.parametrize('build, size', [
    (lambda: case('rtformer'), (45, 70)), (lambda: case('semantic_fpn_svt'), (45, 70)), (tiny_xcit, (48, 80)),
], ids=['rtformer', 'twins', 'xcit'])
def test_pictures_and_index_agree_and_the_model_is_as_before(build, size, tmp_path):
    model = build()
    x = paddle.to_tensor(images(1, size))
    before = model(x)[0].numpy()
    model.train()
    pictures = explain(model, tmp_path, size=size, points=((30, 20),), save_arrays=True)
    assert model.training and all(not layer._forward_pre_hooks for layer in model.sublayers())
    model.eval()
    assert (model(x)[0].numpy() == before).all()
    index = json.loads((tmp_path / 'out' / 'straße 1' / INDEX).read_text(encoding='utf-8'))
    assert (index['height'], index['width']) == size
    assert [entry['layer'] for entry in index['pictures']] == list(chosen_layers(model))
    assert [picture.name for picture in pictures] == [entry['file'] for entry in index['pictures']]
    for picture, entry in zip(pictures, index['pictures']):
        with Image.open(picture) as opened:
            assert min(opened.size) > 300 and len(opened.convert('RGB').getcolors(1 << 24)) > 300
        arrays = np.load(picture.parent / entry['arrays']['file'])
        for name, axes in entry['arrays']['axes'].items():
            assert arrays[name].ndim == len(axes.split(', ')) and len(arrays[name]) == entry['all_heads']


def test_numbers_are_those_of_the_layer_in_the_model(tmp_path):
    """From a model in training mode, with points, a resize and an odd size."""
    model = case('rtformer')
    model.train()
    seen = {}
    hook = model.layer5.attn_h.register_forward_post_hook(lambda layer, given, output: seen.update(x=given, y=output))
    points = ((3, 40), (69, 44))
    explain(model, tmp_path, transforms=[Resize(target_size=(96, 72))], layers=('layer5.attn_h',), points=points,
            save_arrays=True)
    hook.remove()
    weights = np.load(tmp_path / 'out' / 'straße 1' / 'layer5.attn_h.npz')['points'][0].reshape(2, -1)
    value = seen['x'][1][0, 16:].reshape([16, -1]).numpy()
    for (x, y), weight in zip(points, weights):
        expected = seen['y'][0, :, int((y + 0.5) * 72 / 45 / 8), int((x + 0.5) * 96 / 70 / 8)].numpy()
        assert relative_difference(value @ weight, expected) < TOLERANCE


def test_heat_is_brightest_where_the_weight_is():
    values = np.zeros((30, 40), np.float32)
    values[10:20, 5:15] = 0.4
    values[25:] = np.nan
    heat = heat_over_image(values, np.full((30, 40, 3), 128, np.uint8), 0.4)
    brightness = heat.sum(axis=2)
    assert (brightness[10:20, 5:15] > 2 * brightness[0, 0]).all()
    assert np.ptp(heat[27, 7]) == 0  # gray where no cell reaches


def test_pictures_hold_the_image_and_the_map_over_it(tmp_path):
    frame = frame_of((40, 80), (40, 80), [])
    values = np.zeros((1, 2, 4), np.float32)
    values[0, 1, 2] = 1.
    row = Row('mean', values, Grid(2, 4, (20, 20)), even=1 / 8)
    image = np.full((40, 80, 3), (0, 0, 255), np.uint8)
    write_look(Look('what is shown', (row,), {}, {}, True), image, frame, tmp_path / 'a.png', layer='x', heads=[0])
    with Image.open(tmp_path / 'a.png') as picture:
        pixels = np.array(picture.convert('RGB')).astype(int)
    rows, columns = np.nonzero((pixels == (0, 0, 255)).all(axis=2))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert len(rows) == height * width and abs(width - 2 * height) <= 1
    bright = np.rint(255 * heat_over_image(np.ones((1, 1)), image[:1, :1], 1.)[0, 0])
    found = np.nonzero((np.abs(pixels - bright) <= 1).all(axis=2)[rows.max() - height:rows.max() + 1])
    left = columns.max() + 1 + GAP
    assert abs(len(found[0]) - height * width / 8) <= height
    assert abs(found[1].min() - left - width / 2) <= 1 and abs(found[1].max() - left - 0.75 * width) <= 1
    assert found[0].min() >= height / 2 - 1


def test_heads_are_those_asked_for(tmp_path):
    model = case('rtformer')

    def drawn(**options):
        explain(model, tmp_path, layers=('layer4.attn_l',), points=((30, 20),), **options)
        index = json.loads((tmp_path / 'out' / 'straße 1' / INDEX).read_text(encoding='utf-8'))
        return index['pictures'][0]['heads']

    assert drawn(heads=(5, 0, 99)) == [0, 5]
    assert drawn(heads=()) == list(range(8))
    assert len(drawn()) == 4
    with pytest.raises(UserError, match='--heads 8: layer4.attn_l has the heads 0 to 7; choose some of them, or other'):
        drawn(heads=(8,))


def test_heads_that_no_layer_has_are_told_before_anything_is_written(tmp_path):
    have = ', '.join(rf'backbone\.blocks\.{block}\.attn has the heads 0 to 1' for block in (0, 1, 3, 4))
    with pytest.raises(UserError, match=f'^--heads 2 9: {have}; choose some of them, or other --layers'):
        explain(tiny_xcit(), tmp_path, size=(48, 80), heads=(2, 9), save_arrays=True)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('options, text', [
    ({'points': ((0, 0), (70, 3))}, r'\(70, 3\) is outside .*70×45 pixels \(width × height\): x is 0 to 69, y is 0'),
    ({'points': ((-1, 0),)}, r'\(-1, 0\) is outside'),
    ({'points': ((1, 1),) * 21}, 'has 21 points'),
    ({'size': (20, 70), 'name': 'small.png'}, r'small.png: RTFormer needs images of at least 32×32 pixels'),
    ({'name': 'none/a.png'}, 'no such file'),
])
def test_mistakes_are_told_before_anything_is_written(options, text, tmp_path):
    (tmp_path / 'none').mkdir()
    if options.get('name') == 'none/a.png':
        (tmp_path / 'none' / 'a.png').mkdir()
    with pytest.raises(UserError, match=text):
        explain(case('rtformer'), tmp_path, **options)
    assert not (tmp_path / 'out').exists()


def test_pictures_of_another_image_are_not_replaced(tmp_path):
    model = case('rtformer')
    (tmp_path / 'b').mkdir()
    explain(model, tmp_path, layers=('layer5.attn_h',))
    explain(model, tmp_path, layers=('layer5.attn_h',))
    (tmp_path / 'b' / 'straße 1.png').write_bytes((tmp_path / 'straße 1.png').read_bytes())
    with pytest.raises(UserError, match='has the pictures of .*Choose another --save_dir'):
        explain(model, tmp_path, name='b/straße 1.png', layers=('layer5.attn_h',))
    (tmp_path / 'out' / 'straße 1' / INDEX).write_text('[]')
    with pytest.raises(UserError, match='not a list of pictures of explain'):
        explain(model, tmp_path, layers=('layer5.attn_h',))


# -- the command


@pytest.fixture(scope='module')
def command(tmp_path_factory):
    """`explain` with a tiny RTFormer's YAML, random weights and an image."""
    folder = tmp_path_factory.mktemp('run')
    listing = write_scenes(folder)
    dataset = {'type': 'Dataset', 'dataset_root': str(folder), 'num_classes': CLASSES, 'mode': 'val',
               'val_path': str(listing), 'transforms': [{'type': 'Normalize'}]}
    tree = {'batch_size': 2, 'iters': 10,
            'loss': {'types': [{'type': 'CrossEntropyLoss'}] * 2, 'coef': [1, 0.4]},
            'train_dataset': {**dataset, 'mode': 'train', 'train_path': str(listing)}, 'val_dataset': dataset,
            'optimizer': {'type': 'AdamW'}, 'lr_scheduler': {'type': 'PolynomialDecay', 'learning_rate': 0.001},
            'model': {'type': 'RTFormer', 'num_classes': CLASSES, 'layer_nums': [1, 1, 1, 1], 'base_channels': 8,
                      'spp_channels': 8, 'num_heads': 2, 'head_channels': 8, 'cross_size': 4}}
    del tree['train_dataset']['val_path']
    (folder / 'tiny.yml').write_text(yaml.safe_dump(tree))
    from paddleseg_ext import config as configs
    model = configs.make_builder(configs.load_config(str(folder / 'tiny.yml'))).model
    paddle.save(model.state_dict(), str(folder / 'model.pdparams'))
    (folder / 'bad.png').write_text('bad')
    return ['explain', '--config', str(folder / 'tiny.yml'), '--model_path', str(folder / 'model.pdparams'),
            '--device', 'cpu', '--image', str(folder / 'image_3.png')]


def test_the_command_draws_and_says_where(command, tmp_path, capsys):
    assert main([*command, '--save_dir', str(tmp_path), '--points', '52', '36', '0', '0', '--heads', 'all',
                 '--layers', '*attn_h', '--save_arrays']) == 0
    folder = tmp_path / 'image_3'
    assert capsys.readouterr().out.splitlines() == [
        f'{folder}/layer4.attn_h.png', f'{folder}/layer5.attn_h.png', f'{folder}/explain.json says what they show.']
    index = json.loads((folder / INDEX).read_text(encoding='utf-8'))
    assert [(point['x'], point['y']) for point in index['points']] == [(52, 36), (0, 0)]
    assert sorted(path.name for path in folder.iterdir()) == [INDEX] + [
        f'layer{layer}.attn_h.{kind}' for layer in (4, 5) for kind in ('npz', 'png')]


@pytest.mark.parametrize('extra, text', [
    (['--points', '1', '2', '3'], '--points has 3 numbers: 1 2 3; give x and y'),
    (['--points', '53', '0'], '53×37 pixels'),
    (['--heads', '-1'], '--heads'),
    (['--heads', 'all', '1'], '--heads all 1: give numbers from 0'),
    (['--layers', 'backbone*'], 'matches no layer'),
    (['--image', 'bad.png'], 'cannot be read as an image'),
    (['--image', '.'], 'no such file'),
])
def test_wrong_flags_end_in_one_sentence(command, extra, text, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(command[2].rpartition('/')[0])
    try:
        code = main([*command, '--save_dir', str(tmp_path / 'out'), *extra])
    except SystemExit as stop:  # argparse's own
        code = stop.code
    error = capsys.readouterr().err
    assert code in (1, 2) and text in error and 'Traceback' not in error
    assert not (tmp_path / 'out').exists()
