"""The synthetic street scenes: exact, deterministic, at any size, structured, and not solvable by colour."""
from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from paddleseg_ext.data.scenes import SyntheticScenes
from paddleseg_ext.data.synth import SCENE_CLASS_COLORS, SCENE_CLASS_NAMES, render_scene, write_scenes
from paddleseg_ext.data.synth_canvas import SUPERSAMPLING, Canvas
from paddleseg_ext.data.synth_classes import CAR, PERSON, ROAD, SKY, TREE
from paddleseg_ext.errors import UserError

COUNT = len(SCENE_CLASS_NAMES)


@pytest.fixture(scope='module')
def drawn() -> list:
    return [render_scene(96, 64, (7, index)) for index in range(40)]


@pytest.mark.parametrize('size', [(192, 128), (33, 47), (640, 360), (16, 16), (200, 40)])
def test_any_size(size):
    width, height = size
    image, label = render_scene(width, height, 3)
    assert image.shape == (height, width, 3) and image.dtype == np.uint8 and image.flags['C_CONTIGUOUS']
    assert label.shape == (height, width) and label.dtype == np.uint8 and label.max() < COUNT


def test_too_small_is_refused():
    with pytest.raises(ValueError, match='15x64 is too small: both sides need at least 16 pixels'):
        render_scene(15, 64, 0)


def test_same_seed_same_scene_whatever_was_drawn_before():
    image, label = render_scene(96, 64, (1, 2))
    np.random.default_rng(0).random(10)
    render_scene(64, 64, 5)
    again, label_again = render_scene(96, 64, (1, 2))
    assert np.array_equal(image, again) and np.array_equal(label, label_again)
    other, _ = render_scene(96, 64, (1, 3))
    assert np.abs(image.astype(int) - other).mean() > 10


def test_label_is_the_shape_at_the_pixel_centre():
    """Polygons with corners off the pixel grid: the label is decided by the pixel's centre, the colour by its area."""
    canvas = Canvas(8, 4)
    left, right = 1.4, 5.6  # pixels; pixel 1's centre (1.5) is inside, pixel 5's (5.5) too
    corners = np.array([(left, 0), (right, 0), (right, 4), (left, 4)]) * SUPERSAMPLING - 0.5
    canvas.polygon(corners, np.array([240.0, 240.0, 240.0]), CAR)
    image, label = canvas.finish()
    assert label[2].tolist() == [0, CAR, CAR, CAR, CAR, CAR, 0, 0]
    assert 0 < image[2, 1, 0] < 240 and image[2, 3, 0] == 240


def test_one_scene_at_two_sizes_has_the_same_labels():
    _, small = render_scene(120, 80, 11)
    _, large = render_scene(360, 240, 11)
    assert (large[1::3, 1::3] == small).mean() > 0.93


def test_all_classes_occur(drawn):
    pixels = np.sum([np.bincount(label.ravel(), minlength=COUNT) for _, label in drawn], axis=0)
    shares = pixels / pixels.sum()
    assert shares.min() > 0.008, dict(zip(SCENE_CLASS_NAMES, shares))
    assert shares.max() < 0.5


def test_scenes_are_built_like_streets(drawn):
    """Sky above, road below, and the neighbours of a pixel mostly of its class: structure that a network can learn."""
    rows = np.stack([label for _, label in drawn])
    height = rows.shape[1]
    assert (rows[:, : height // 4] == ROAD).mean() < 0.01
    assert (rows[:, -height // 6:] == ROAD).mean() > 0.5
    assert (rows[:, height * 2 // 3:] == SKY).mean() == 0.0
    assert (rows[:, :, 1:] == rows[:, :, :-1]).mean() > 0.9


def _mean_iou(truth: np.ndarray, guess: np.ndarray) -> float:
    counts = np.bincount(truth * COUNT + guess, minlength=COUNT * COUNT).reshape(COUNT, COUNT)
    both = np.diag(counts)
    return float((both / np.maximum(counts.sum(0) + counts.sum(1) - both, 1)).mean())


@pytest.mark.parametrize('degree', [1, 2])
@pytest.mark.parametrize('class_weight', [None, 'balanced'])
def test_linear_classifier_on_colour_fails(drawn, class_weight, degree):
    """Softmax regression on a pixel's RGB (and on its products) stays far below what shape and place allow."""
    features, labels = [], []
    for image, label in drawn:
        features.append(image[1::3, 1::3].reshape(-1, 3) / 255.0)
        labels.append(label[1::3, 1::3].ravel().astype(np.int64))
    half = len(drawn) // 2
    model = make_pipeline(PolynomialFeatures(degree, include_bias=False), StandardScaler(),
                          LogisticRegression(class_weight=class_weight, C=10.0, max_iter=2000))
    model.fit(np.concatenate(features[:half]), np.concatenate(labels[:half]))
    score = _mean_iou(np.concatenate(labels[half:]), model.predict(np.concatenate(features[half:])))
    assert 0.02 < score < 0.35


def test_write_scenes_and_read_them_back(tmp_path):
    folder = write_scenes(tmp_path / 'scenes', train=3, val=2, width=48, height=32, seed=4)
    for mode, number, count in (('train', 0, 3), ('val', 1, 2)):
        dataset = SyntheticScenes([], str(folder), mode)
        assert len(dataset) == count
        image, label = render_scene(48, 32, (4, number, 1))
        item = dataset[1]
        assert np.array_equal(item['img'], image.transpose(2, 0, 1))
        assert np.array_equal(item['label'], label[None] if mode == 'val' else label)
    with Image.open(folder / 'labels/train/00000.png') as opened:
        assert opened.mode == 'P'
        assert opened.getpalette()[3 * PERSON: 3 * PERSON + 3] == SCENE_CLASS_COLORS[PERSON]
    rows = (folder / 'classes.txt').read_text(encoding='utf-8').splitlines()
    assert rows[TREE] == 'tree 107 142 35' and len(rows) == COUNT
    description = json.loads((folder / 'scenes.json').read_text(encoding='utf-8'))
    assert description['parameters'] == {'version': 1, 'train': 3, 'val': 2, 'width': 48, 'height': 32, 'seed': 4}


def test_writing_again_changes_nothing_and_other_parameters_replace(tmp_path):
    folder = write_scenes(tmp_path / 'scenes', train=2, val=1, width=32, height=32)
    before = (folder / 'train.txt').stat().st_mtime_ns
    write_scenes(folder, train=2, val=1, width=32, height=32)
    assert (folder / 'train.txt').stat().st_mtime_ns == before
    write_scenes(folder, train=1, val=1, width=32, height=32)
    assert len((folder / 'train.txt').read_text(encoding='utf-8').splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ['scenes']


def test_other_peoples_folders_are_not_overwritten(tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work', encoding='utf-8')
    with pytest.raises(UserError, match='is not empty and holds no scenes.json'):
        write_scenes(tmp_path, train=1, val=1, width=32, height=32)
    with pytest.raises(UserError, match='thesis.tex is a file; name a folder'):
        write_scenes(tmp_path / 'thesis.tex', train=1, val=1, width=32, height=32)
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


def test_damaged_description_is_named(tmp_path):
    (tmp_path / 'scenes.json').write_text('{', encoding='utf-8')
    with pytest.raises(UserError, match='scenes.json is damaged .*delete the folder'):
        write_scenes(tmp_path, train=1, val=1, width=32, height=32)


@pytest.mark.parametrize('name, value', [('train', 0), ('val', -1), ('width', 8), ('height', 15), ('seed', -1)])
def test_numbers_out_of_range(tmp_path, name, value):
    with pytest.raises(UserError, match=f'{name} is {value}, but it has to be at least'):
        write_scenes(tmp_path / 'scenes', **{'train': 1, 'val': 1, name: value})
    assert not (tmp_path / 'scenes').exists()


def test_absent_scenes_name_the_command(tmp_path):
    with pytest.raises(UserError, match='write them with: paddleseg data synth --save_dir .*nothing'):
        SyntheticScenes([], str(tmp_path / 'nothing'))
    with pytest.raises(UserError, match="SyntheticScenes has no mode 'tset'; choose one of train, val"):
        SyntheticScenes([], str(tmp_path), 'tset')
