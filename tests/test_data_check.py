"""`paddleseg data`: the check finds each kind of fault and names the file; synth writes what it says."""
from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
import yaml
from PIL import Image

from paddleseg_ext.cli import data as data_verb
from paddleseg_ext.data.inspect import class_weights, inspect_dataset
from paddleseg_ext.errors import UserError


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """A sound data set of three classes: 3 training and 2 validation pictures of 6x4."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 3), ('val', 2)):
        lines = []
        for index in range(count):
            save(tmp_path / f'{split}/{index}.png', rng.integers(0, 256, (4, 6, 3)))
            save(tmp_path / f'{split}/{index}_label.png', [[0] * 6, [0] * 6, [1] * 6, [1, 1, 1, 255, 255, 255]])
            lines.append(f'{split}/{index}.png {split}/{index}_label.png\n')
        (tmp_path / f'{split}.txt').write_text(''.join(lines), encoding='utf-8')
    return tmp_path


def configuration(folder):
    def section(mode):
        return {'type': 'Dataset', 'dataset_root': str(folder), f'{mode}_path': str(folder / f'{mode}.txt'),
                'num_classes': 3, 'mode': mode, 'transforms': [{'type': 'Normalize'}]}
    tree = {'batch_size': 1, 'iters': 2, 'train_dataset': section('train'), 'val_dataset': section('val'),
            'optimizer': {'type': 'SGD', 'momentum': 0.9},
            'lr_scheduler': {'type': 'PolynomialDecay', 'learning_rate': 0.01, 'end_lr': 0.0, 'power': 0.9},
            'loss': {'types': [{'type': 'CrossEntropyLoss'}], 'coef': [1]},
            'model': {'type': 'FastSCNN', 'num_classes': 3, 'enable_auxiliary_loss': False}}
    path = folder / 'config.yml'
    path.write_text(yaml.safe_dump(tree), encoding='utf-8')
    return path


def run(*arguments):
    parser = argparse.ArgumentParser()
    data_verb.add_arguments(parser)
    return data_verb.run(parser.parse_args([str(argument) for argument in arguments]))


def check(folder, capsys, *more):
    code = run('check', '--config', configuration(folder), *more)
    return code, capsys.readouterr().out


def test_sound_data(folder, capsys):
    code, text = check(folder, capsys, '--json', folder / 'report.json')
    assert code == 0 and 'no problems found' in text
    assert 'train: 3 samples, 3 looked at; 6x4 (3); 12.5 % of the label pixels ignored' in text
    assert 'note: train has no pixel of class_2' in text
    report = json.loads((folder / 'report.json').read_text(encoding='utf-8'))
    assert report['problems'] == []
    assert report['datasets']['train']['pixels'] == [36, 27, 0]
    assert report['datasets']['train']['shares'] == pytest.approx([36 / 63, 27 / 63, 0])
    expected = [1 / np.log(1.1 + share) for share in (36 / 63, 27 / 63, 0)]
    assert report['datasets']['train']['class_weights'] == pytest.approx(expected)
    assert f'{expected[0]:.3f}, {expected[1]:.3f}, {expected[2]:.3f}' in text


def remove_label(folder):
    (folder / 'train/1_label.png').unlink()


def remove_image(folder):
    (folder / 'val/0.png').unlink()


def wrong_size(folder):
    save(folder / 'train/2_label.png', np.zeros((5, 6)))


def foreign_ids(folder):
    save(folder / 'val/1_label.png', [[0, 3, 3, 7, 255, 1]] * 4)


def truncated_image(folder):
    content = (folder / 'train/0.png').read_bytes()
    (folder / 'train/0.png').write_bytes(content[:len(content) - 40])


def text_instead_of_label(folder):
    (folder / 'train/0_label.png').write_text('not a picture', encoding='utf-8')


def colour_label(folder):
    save(folder / 'train/0_label.png', np.zeros((4, 6, 3)))


def same_picture(folder):
    (folder / 'val/1.png').write_bytes((folder / 'train/2.png').read_bytes())


def empty_list(folder):
    (folder / 'val.txt').write_text('', encoding='utf-8')


def bad_list(folder):
    (folder / 'val.txt').write_text('only_an_image.png\n', encoding='utf-8')


def no_list(folder):
    (folder / 'train.txt').unlink()


@pytest.mark.parametrize('spoil, kind, file, message', [
    (remove_label, 'missing file', 'train/1_label.png', ''),
    (remove_image, 'missing file', 'val/0.png', ''),
    (wrong_size, 'size mismatch', 'train/2_label.png', 'label 6x5, image 6x4'),
    (foreign_ids, 'label id outside the classes', 'val/1_label.png',
     '3 (8 pixels), 7 (4 pixels); allowed are 0–2 and 255'),
    (truncated_image, 'unreadable image', 'train/0.png', 'truncated'),
    (text_instead_of_label, 'unreadable label', 'train/0_label.png', 'cannot identify image file'),
    (colour_label, 'label is not a map of ids', 'train/0_label.png', 'needs one channel'),
    (same_picture, 'in train and val', 'val/1.png', 'train/2.png'),
    (empty_list, 'empty', 'val', 'the list has no samples'),
    (bad_list, 'cannot be opened', 'val_dataset', 'File list format incorrect'),
    (no_list, 'cannot be opened', 'train_dataset', 'train.txt'),
])
def test_each_fault_is_named(folder, capsys, spoil, kind, file, message):
    spoil(folder)
    code, text = check(folder, capsys, '--json', folder / 'report.json')
    assert code == 1
    assert '1 problem:' in text and f'{kind} (1):' in text
    problems = json.loads((folder / 'report.json').read_text(encoding='utf-8'))['problems']
    assert len(problems) == 1 and problems[0]['kind'] == kind
    assert problems[0]['file'].endswith(file) and message in problems[0]['message']
    assert problems[0]['file'] in text


def test_all_faults_at_once(folder, capsys):
    for spoil in (remove_label, wrong_size, foreign_ids):
        spoil(folder)
    code, text = check(folder, capsys)
    assert code == 1 and '3 problems:' in text


def test_long_lists_are_cut_short(folder, capsys):
    lines = ''.join(f'train/none{index}.png train/0_label.png\n' for index in range(30))
    (folder / 'train.txt').write_text(lines, encoding='utf-8')
    code, text = check(folder, capsys)
    assert code == 1 and 'missing file (30):' in text and '… and 10 more; --json FILE writes them all' in text


def test_missing_root_is_not_downloaded(folder, capsys):
    path = configuration(folder)
    tree = yaml.safe_load(path.read_text(encoding='utf-8'))
    tree['train_dataset'] = {'type': 'ADE20K', 'dataset_root': str(folder / 'nowhere'), 'mode': 'train',
                             'transforms': [{'type': 'Normalize'}]}
    tree['model']['num_classes'] = 150
    tree['val_dataset'] = dict(tree['train_dataset'], mode='val')
    path.write_text(yaml.safe_dump(tree), encoding='utf-8')
    assert run('check', '--config', path) == 1
    assert 'missing folder (2):' in capsys.readouterr().out


def test_limit(folder, capsys):
    remove_label(folder)
    code, text = check(folder, capsys, '--limit', 2)
    assert code == 0 and '3 samples, 2 looked at' in text
    with pytest.raises(UserError, match='limit is 0, but at least 1 sample'):
        check(folder, capsys, '--limit', 0)


def test_weights_formula():
    assert class_weights([0.0, 1.0]) == pytest.approx([10.492, 1.3478], rel=1e-4)


def test_progress_goes_to_stderr(folder, capsys):
    check(folder, capsys)
    check_config = configuration(folder)
    run('check', '--config', check_config)
    captured = capsys.readouterr()
    assert 'train: 100%' in captured.err and '100%' not in captured.out


def test_synth_and_check_of_it(tmp_path, capsys):
    scenes = tmp_path / 'scenes'
    assert run('synth', '--save_dir', scenes, '--train', 3, '--val', 2, '--width', 48, '--height', 32) == 0
    assert f'3 training and 2 validation scenes of 48x32 are in {scenes}' in capsys.readouterr().out
    assert run('check', '--config', configuration_of_scenes(tmp_path, scenes)) == 0
    assert '   1  road' in capsys.readouterr().out


def configuration_of_scenes(tmp_path, scenes):
    path = configuration(tmp_path)
    tree = yaml.safe_load(path.read_text(encoding='utf-8'))
    for mode in ('train', 'val'):
        tree[f'{mode}_dataset'] = {'type': 'SyntheticScenes', 'dataset_root': str(scenes), 'mode': mode,
                                   'transforms': [{'type': 'Normalize'}]}
    tree['model']['num_classes'] = 9
    path.write_text(yaml.safe_dump(tree), encoding='utf-8')
    return path


def test_absent_scenes_are_a_finding_with_the_command(tmp_path, capsys):
    path = configuration_of_scenes(tmp_path, tmp_path / 'absent')
    assert run('check', '--config', path) == 1
    assert 'write them with: paddleseg data synth --save_dir' in capsys.readouterr().out


def test_inspection_as_a_library(folder):
    from paddleseg.datasets import Dataset
    from paddleseg.transforms import Normalize, Resize
    transforms = [Resize(target_size=[64, 64]), Normalize()]
    dataset = Dataset(mode='train', dataset_root=str(folder), transforms=transforms, num_classes=3,
                      train_path=str(folder / 'train.txt'))
    report = inspect_dataset(dataset, progress=False)
    assert report.findings == [] and report.sizes == {(6, 4): 3} and report.images_with.tolist() == [3, 3, 0]
    assert dataset.transforms.transforms == transforms  # the data set itself is left as it was
