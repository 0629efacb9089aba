"""`predict` and `val` from the library and from the command."""
from __future__ import annotations

import json
import logging

import numpy as np
import paddle
import pytest
import yaml
from paddleseg.transforms import Compose, Normalize, Resize
from PIL import Image
from tiny_segmentation import CLASSES, TinyModel, make_dataset, write_scenes

from paddleseg_ext.cli import predict as predict_command
from paddleseg_ext.cli import val as val_command
from paddleseg_ext.cli.main import main
from paddleseg_ext.data.image_io import list_images
from paddleseg_ext.engine.evaluate import evaluate
from paddleseg_ext.engine.evaluation_report import class_table, headline, write_report
from paddleseg_ext.engine.forward import TestOptions
from paddleseg_ext.engine.predict import predict_folder
from paddleseg_ext.errors import UserError
from paddleseg_ext.metrics import ConfusionMatrix, ScoreHistogram

NAMES = ['road', 'car', 'tree', 'sky']
COLORS = [[0, 0, 0], [200, 0, 0], [0, 200, 0], [0, 0, 200]]
LOOK = {'names': NAMES, 'colors': COLORS, 'progress': False}
KINDS = ('label_ids', 'pseudo_color_prediction', 'added_prediction')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes')
    write_scenes(folder)
    (folder / 'sub').mkdir()
    for name in ('image_0.png', 'image_3.png'):
        (folder / 'sub' / name).write_bytes((folder / name).read_bytes())
    return folder


@pytest.fixture(scope='module')
def model():
    return TinyModel()


@pytest.fixture(autouse=True)
def fresh_log():
    """The command's log handler holds the stderr of the test that made it; each test gets its own."""
    yield
    log = logging.getLogger('paddleseg_ext')
    log.handlers.clear()
    log.propagate = True


def pictures(root):
    return [item for item in list_images(root) if 'image' in item.path.name]


def ids(path):
    with Image.open(path) as picture:
        return np.array(picture)


@pytest.mark.parametrize('settings', [{}, {'is_slide': True, 'crop_size': (32, 24), 'stride': (20, 16)},
                                      {'aug_eval': True, 'scales': (0.75, 1.25), 'flip_horizontal': True}],
                         ids=['whole', 'slide', 'augmented'])
def test_masks_are_those_that_val_counts(root, model, tmp_path, settings):
    options = TestOptions(**settings)
    compose = Compose([Resize(target_size=(56, 40)), Normalize()])
    report = predict_folder(model, compose, pictures(root), tmp_path, options, **LOOK)
    assert len(report.written) == 7 and not report.failures
    assert (tmp_path / 'label_ids' / 'sub' / 'image_3.png').is_file()
    matrix = ConfusionMatrix(CLASSES)
    for index in range(5):
        matrix.update(ids(tmp_path / 'label_ids' / f'image_{index}.png'), ids(root / f'label_{index}.png'))
    dataset = make_dataset(root, Resize(target_size=(56, 40)))
    assert (matrix.counts == evaluate(model, dataset, options, progress=False).counts).all()


def test_one_bad_image_does_not_keep_the_others_from_it(root, model, tmp_path):
    folder = tmp_path / 'in'
    folder.mkdir()
    for name in ('image_0.png', 'image_3.png'):
        (folder / name).write_bytes((root / name).read_bytes())
    (folder / 'image_1.png').write_text('corrupt')
    report = predict_folder(model, Compose([Normalize()]), list_images(folder), tmp_path / 'out', **LOOK)
    assert [path.name for path in report.written] == ['image_0.png', 'image_3.png']
    assert list(report.failures) == [folder / 'image_1.png']
    assert report.failures[folder / 'image_1.png'].startswith('cannot be read as an image')
    assert sorted(path.name for path in (tmp_path / 'out' / 'label_ids').iterdir()) == ['image_0.png', 'image_3.png']


def test_failures_of_the_model_are_reported_by_image(root, tmp_path):
    def model(images):
        if images.shape[2] < 48:
            raise ValueError('at least 48 rows are needed')
        return [images]
    report = predict_folder(model, Compose([Normalize()]), pictures(root), tmp_path, **LOOK)
    assert set(report.failures.values()) == {'at least 48 rows are needed'} and len(report.failures) == 2
    assert len(report.written) == 5


def test_gray_alpha_and_deep_images_give_masks_of_their_size(model, tmp_path):
    import cv2
    folder = tmp_path / 'in'
    folder.mkdir()
    generator = np.random.default_rng(2)
    cv2.imwrite(str(folder / 'deep.png'), generator.integers(0, 65535, (20, 30, 3)).astype('uint16'))
    cv2.imwrite(str(folder / 'gray.png'), generator.integers(0, 255, (21, 30)).astype('uint8'))
    cv2.imwrite(str(folder / 'alpha.png'), generator.integers(0, 255, (22, 30, 4)).astype('uint8'))
    cv2.imwrite(str(folder / 'float.tif'), np.zeros((4, 4, 3), 'float32'))
    report = predict_folder(model, Compose([Normalize()]), list_images(folder), tmp_path, **LOOK)
    assert {path.name: ids(files[0]).shape for path, files in report.written.items()} == {
        'deep.png': (20, 30), 'gray.png': (21, 30), 'alpha.png': (22, 30)}
    assert 'its pixels are float32' in report.failures[folder / 'float.tif']
    gray = Compose([Normalize(mean=(0.5,), std=(0.5,))], img_channels=1)
    items = list_images(folder / 'gray.png')
    report = predict_folder(TinyModel(in_channels=1), gray, items, tmp_path / 'one', **LOOK)
    assert not report.failures and ids(tmp_path / 'one' / 'added_prediction' / 'gray.png').shape[2] == 3


def test_images_of_one_stem_are_kept_apart_and_reruns_replace(root, model, tmp_path):
    folder = tmp_path / 'in'
    folder.mkdir()
    Image.fromarray(ids(root / 'image_0.png')).save(folder / 'a.jpg')
    Image.fromarray(ids(root / 'image_3.png')).save(folder / 'a.png')
    for _ in range(2):
        predict_folder(model, Compose([Normalize()]), list_images(folder), tmp_path / 'out', **LOOK)
        for kind in KINDS:
            assert sorted(p.name for p in (tmp_path / 'out' / kind).iterdir()) == ['a.jpg.png', 'a.png.png']
    before = {path: path.read_bytes() for path in (tmp_path / 'out').rglob('*.png')}
    other = tmp_path / 'other'
    other.mkdir()
    for name in ('a.jpg', 'a.png'):
        (other / name).write_bytes((root / 'image_1.png').read_bytes())
    with pytest.raises(UserError, match='would be overwritten by that of'):
        predict_folder(model, Compose([Normalize()]), list_images(other), tmp_path / 'out', **LOOK)
    assert before == {path: path.read_bytes() for path in (tmp_path / 'out').rglob('*.png')}


def test_the_table_is_aligned_and_the_report_complete(tmp_path):
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([0, 1, 1, 0]), np.array([0, 1, 0, 255]))
    lines = class_table(matrix, ['a long name', 'b', 'c']).splitlines()
    assert lines[0].split() == ['id', 'class', 'IoU', 'precision', 'recall', 'dice', 'share']
    assert [line.index('0.0000') for line in lines if line.startswith(' 2')] == [lines[0].index('IoU') - 3]
    assert lines[3].endswith('not in the labels') and '66.67 %' in lines[1]
    assert headline(matrix).startswith('mIoU 0.3333  Acc 0.6667  Kappa')
    scores = ScoreHistogram(3)
    paths = write_report(tmp_path / 'new', matrix, ['a', 'b', 'c'], settings={'config': 'x.yml'}, images=4,
                         scores=scores)
    metrics = json.loads(paths[0].read_text())
    assert metrics['confusion_matrix'] == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert json.loads(paths[1].read_text())['counts'] == metrics['confusion_matrix']
    assert metrics['settings'] == {'config': 'x.yml'} and metrics['images'] == 4 and metrics['auc_roc'] is None
    assert ids(paths[2]).shape[1] > 300


@pytest.mark.parametrize('classes', [1, 60])
def test_confusion_pictures_of_any_size(tmp_path, classes):
    matrix = ConfusionMatrix(classes)
    matrix.update(np.arange(500) % classes, np.arange(500) ** 2 % classes)
    write_report(tmp_path, matrix, [f'class number {index} with a rather long name' for index in range(classes)],
                 settings={}, images=1)
    assert (tmp_path / 'confusion_matrix.png').stat().st_size > 1000


@pytest.fixture(scope='module')
def trained(root, tmp_path_factory):
    """A tiny RTFormer's YAML and random weights."""
    folder = tmp_path_factory.mktemp('run')
    dataset = {'type': 'Dataset', 'dataset_root': str(root), 'num_classes': CLASSES,
               'transforms': [{'type': 'Normalize'}]}
    loss = {'types': [{'type': 'CrossEntropyLoss'}] * 2, 'coef': [1, 0.4]}
    tree = {'batch_size': 2, 'iters': 10, 'loss': loss,
            'train_dataset': {**dataset, 'mode': 'train', 'train_path': str(root / 'val.txt')},
            'val_dataset': {**dataset, 'mode': 'val', 'val_path': str(root / 'val.txt')},
            'optimizer': {'type': 'AdamW'}, 'lr_scheduler': {'type': 'PolynomialDecay', 'learning_rate': 0.001},
            'model': {'type': 'RTFormer', 'num_classes': CLASSES, 'layer_nums': [1, 1, 1, 1], 'base_channels': 8,
                      'spp_channels': 8, 'num_heads': 2, 'head_channels': 8, 'cross_size': 4}}
    config = folder / 'tiny.yml'
    config.write_text(yaml.safe_dump(tree))
    from paddleseg_ext import config as configs
    paddle.seed(5)
    model = configs.make_builder(configs.load_config(str(config))).model
    paddle.save(model.state_dict(), str(folder / 'model.pdparams'))
    rows = [' '.join([name, *map(str, color)]) for name, color in zip(NAMES, COLORS)]
    (root / 'classes.txt').write_text('\n'.join(rows))
    return ['--config', str(config), '--model_path', str(folder / 'model.pdparams'), '--device', 'cpu']


def test_val_prints_and_writes_what_evaluate_counts(trained, tmp_path, capsys):
    assert main(['val', *trained, '--batch_size', '2', '--save_dir', str(tmp_path), '--auc_roc']) == 0
    output = capsys.readouterr().out
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert f'5 images  mIoU {metrics["miou"]:.4f}' in output and 'Auc_roc' in output
    assert [line.split()[1] for line in output.splitlines()[1:5]] == NAMES
    assert metrics['settings']['test']['is_slide'] is False and metrics['settings']['batch_size'] == 2
    assert sum(map(sum, metrics['confusion_matrix'])) == metrics['pixels']
    slide = ['--is_slide', '--crop_size', '40', '40', '--stride', '24', '24']
    augment = ['--aug_eval', '--scales', '1.25', '1.0', '--flip_horizontal']
    assert main(['val', *trained, *slide, *augment, '--save_dir', str(tmp_path)]) == 0
    again = json.loads((tmp_path / 'metrics.json').read_text())
    assert again['settings']['test']['scales'] == [1.25, 1.0] and again['miou'] != metrics['miou']


def test_test_config_is_the_default_of_val(trained, tmp_path):
    opts = ['--opts', 'test_config.is_slide=True', 'test_config.crop_size=[40,40]', 'test_config.stride=[24,24]']
    assert main(['val', *trained, '--stride', '20', '20', '--save_dir', str(tmp_path), *opts]) == 0
    test = json.loads((tmp_path / 'metrics.json').read_text())['settings']['test']
    assert test['is_slide'] and test['crop_size'] == [40, 40] and test['stride'] == [20, 20]


def test_mistakes_end_val_with_one_message(trained, tmp_path, capsys):
    for extra, text in [(['--is_slide'], 'is_slide needs crop_size'), (['--batch_size', '0'], '--batch_size is 0'),
                        (['--aug_eval', '--scales', '0.5'], 'image_0.png (as the model sees it: [3, 48, 64]): RTF'),
                        (['--precision', 'fp16'], 'precision fp16 needs a GPU'),
                        (['--model_path', str(tmp_path / 'no.pdparams')], 'no.pdparams')]:
        assert main(['val', *trained, *extra]) == 1
        error = capsys.readouterr().err
        assert text in error and 'paddleseg val: error:' in error and 'Traceback' not in error


def test_predict_writes_everything_and_reports_the_bad_one(trained, root, tmp_path, capsys):
    folder = tmp_path / 'in'
    (folder / 'sub').mkdir(parents=True)
    for name in ('image_0.png', 'sub/image_3.png'):
        (folder / name).write_bytes((root / name).read_bytes())
    command = ['predict', *trained, '--image_path', str(folder), '--save_dir', str(folder / 'out'),
               '--custom_color', '9', '8', '7']
    assert main(command) == 0
    assert f'2 of 2 images predicted; ids, palette masks and overlays are in {folder}/out' in capsys.readouterr().out
    (folder / 'bad.jpg').write_text('bad')
    assert main(command) == 1  # results inside the folder are not taken for images
    output = capsys.readouterr()
    assert '2 of 3 images predicted' in output.out
    assert f'not predicted: {folder}/bad.jpg: cannot be read as an image' in output.err
    with Image.open(folder / 'out' / 'pseudo_color_prediction' / 'image_0.png') as palette:
        assert palette.getpalette()[:6] == [9, 8, 7, *COLORS[1]]
    assert sorted(p.relative_to(folder / 'out').as_posix() for p in (folder / 'out').rglob('*.png')) == sorted(
        f'{kind}/{name}' for kind in KINDS for name in ('image_0.png', 'sub/image_3.png'))


def test_predict_augments_only_when_asked(trained, root, tmp_path):
    def mask(*extra):
        save_dir = tmp_path / str(len(list(tmp_path.iterdir())))
        command = ['predict', *trained, '--image_path', str(root / 'image_0.png'), '--save_dir', str(save_dir)]
        assert main([*command, *extra]) == 0
        return ids(save_dir / 'label_ids' / 'image_0.png')
    opts = ['--opts', 'test_config.aug_eval=True', 'test_config.scales=[1.5]']
    plain, configured, augmented = mask(), mask(*opts), mask('--aug_pred', *opts)
    assert (plain == configured).all() and (plain != augmented).any()


def test_wrong_colours_and_empty_folders_end_predict(trained, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    Image.new('RGB', (64, 64)).save(tmp_path / 'a.png')
    save_dir = tmp_path / 'out'
    for image, extra, text in [('empty', [], 'no images in it'),
                               ('a.png', ['--custom_color', '1', '2'], 'has 2 numbers'),
                               ('a.png', ['--custom_color', *['300'] * 3], 'three numbers of 0–255')]:
        command = ['predict', *trained, '--image_path', str(tmp_path / image), '--save_dir', str(save_dir)]
        assert main([*command, *extra]) == 1
        assert text in capsys.readouterr().err
        assert not save_dir.exists()


def test_summaries_fit_one_line():
    for command in (val_command, predict_command):
        assert len(command.SUMMARY) < 110 and '\n' not in command.SUMMARY
