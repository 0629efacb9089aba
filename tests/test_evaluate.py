"""Evaluation: PaddleSeg's (mended) `evaluate` is the oracle; batches, workers and errors on top."""
from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddleseg.transforms import Padding, Resize
from tiny_segmentation import CLASSES, TinyModel, make_dataset, write_scenes

from paddleseg_ext import compat
from paddleseg_ext.engine.evaluate import evaluate, evaluation_mode
from paddleseg_ext.engine.forward import TestOptions
from paddleseg_ext.errors import UserError
from paddleseg_ext.metrics import ScoreHistogram

MODES = {
    'whole': {},
    'slide': {'is_slide': True, 'crop_size': (32, 24), 'stride': (20, 16)},
    'augmented': {'aug_eval': True, 'scales': (0.75, 1.0, 1.25), 'flip_horizontal': True, 'flip_vertical': True},
}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes')
    write_scenes(folder)
    return folder


@pytest.fixture(scope='module')
def model():
    return TinyModel()


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('transforms', [[], [Resize(target_size=(56, 40))], [Padding(target_size=(80, 60))]],
                         ids=['plain', 'resized', 'padded'])
def test_same_figures_as_paddleseg(root, model, mode, transforms):
    from paddleseg.core import evaluate as paddleseg_evaluate
    compat.apply()
    dataset = make_dataset(root, *transforms)
    options = {**MODES[mode]}
    matrix = evaluate(model, dataset, TestOptions(**options), progress=False)
    if 'scales' in options:
        options['scales'] = list(options['scales'])
    theirs = paddleseg_evaluate(model, dataset, print_detail=False, **options)
    miou, accuracy, class_iou, class_precision, kappa = theirs
    assert 0.05 < matrix.miou < 0.95
    assert matrix.miou == pytest.approx(miou, abs=1e-6)
    assert matrix.accuracy == pytest.approx(accuracy, abs=1e-6)
    assert matrix.kappa == pytest.approx(kappa, abs=1e-6)
    np.testing.assert_allclose(matrix.class_iou, class_iou, atol=1e-6)
    np.testing.assert_allclose(matrix.class_precision, class_precision, atol=1e-6)


@pytest.mark.parametrize('mode', MODES)
def test_batches_equal_single_images(root, model, mode):
    dataset = make_dataset(root)
    options = TestOptions(**MODES[mode])
    alone = evaluate(model, dataset, options, progress=False)
    model.shapes.clear()
    batched = evaluate(model, dataset, options, batch_size=2, progress=False)
    assert (alone.counts == batched.counts).all()
    if mode == 'whole':  # three alike, one smaller, one alone: nothing is refused, nothing reordered
        assert [shape[0] for shape in model.shapes] == [2, 1, 1, 1]


def test_equal_input_sizes_share_a_batch_only_when_undone_alike(root, model):
    model.shapes.clear()
    evaluate(model, make_dataset(root, Resize(target_size=(40, 40))), batch_size=8, progress=False)
    assert [shape[0] for shape in model.shapes] == [3, 1, 1]


def test_workers_give_the_same_counts(root, model):
    dataset = make_dataset(root, Resize(target_size=(40, 40)))
    here = evaluate(model, dataset, batch_size=2, progress=False)
    there = evaluate(model, dataset, batch_size=2, num_workers=2, progress=False)
    assert (here.counts == there.counts).all()


def test_the_model_gets_its_modes_back(root):
    model = TinyModel()
    model.train()
    model.body[1].eval()  # a frozen normalisation
    before = [layer.training for layer in model.sublayers(include_self=True)]
    seen = []
    model.register_forward_pre_hook(lambda layer, inputs: seen.append(layer.training))
    evaluate(model, make_dataset(root), progress=False)
    assert seen and not any(seen)
    assert [layer.training for layer in model.sublayers(include_self=True)] == before
    with pytest.raises(KeyError), evaluation_mode(model):
        raise KeyError
    assert [layer.training for layer in model.sublayers(include_self=True)] == before


def test_any_callable_is_evaluated(root, model):
    dataset = make_dataset(root)
    matrix = evaluate(model, dataset, progress=False)
    with evaluation_mode(model):
        other = evaluate(lambda images: [model(images)[0].numpy()], dataset, progress=False)
    assert (matrix.counts == other.counts).all()


@pytest.mark.parametrize('num_workers', [0, 1])
def test_corrupt_and_missing_files_are_named(tmp_path, model, num_workers):
    write_scenes(tmp_path, sizes=((16, 16),) * 3)
    (tmp_path / 'image_1.png').write_bytes(b'no image')
    with pytest.raises(UserError, match=r'image_1\.png: cannot be read as an image \(missing or corrupt\)'):
        evaluate(model, make_dataset(tmp_path), num_workers=num_workers, progress=False)
    write_scenes(tmp_path, sizes=((16, 16),) * 3)
    (tmp_path / 'label_2.png').unlink()
    with pytest.raises(UserError, match=r'label_2\.png: cannot be read as a label'):
        evaluate(model, make_dataset(tmp_path), num_workers=num_workers, progress=False)


class Faulty(paddle.io.Dataset):
    num_classes = CLASSES
    ignore_index = 255

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise ZeroDivisionError('a fault of the data set itself')


def test_faults_that_no_file_explains_stay_what_they_are(model):
    with pytest.raises(ZeroDivisionError, match='a fault of the data set itself'):
        evaluate(model, Faulty(), progress=False)
    with pytest.raises(RuntimeError, match='(?s)a data worker failed.*ZeroDivisionError: a fault of the data set'):
        evaluate(model, Faulty(), num_workers=1, progress=False)


def test_wrong_labels_are_named(tmp_path, model):
    write_scenes(tmp_path, sizes=((16, 16),) * 2, label_value=9)
    with pytest.raises(UserError, match=r'image_0\.png: label ids 9 are outside the 4 classes'):
        evaluate(model, make_dataset(tmp_path), batch_size=2, progress=False)
    write_scenes(tmp_path, sizes=((16, 16),) * 2)
    with pytest.raises(UserError, match=r'image_0\.png: .*outside the 2 classes'):
        evaluate(model, make_dataset(tmp_path, num_classes=2), progress=False)


def test_labels_of_another_size_or_in_colour_are_named(tmp_path, model):
    from PIL import Image
    write_scenes(tmp_path, sizes=((16, 16),))
    Image.fromarray(np.zeros((8, 16), 'uint8')).save(tmp_path / 'label_0.png')
    with pytest.raises(UserError, match=r'image_0\.png: the prediction is \[16, 16\] and the label \[8, 16\] pixels'):
        evaluate(model, make_dataset(tmp_path), progress=False)
    Image.fromarray(np.zeros((16, 16, 3), 'uint8')).save(tmp_path / 'label_0.png')
    with pytest.raises(UserError, match=r'label_0\.png: the label has shape \[1, 16, 16, 3\]; it must be one channel'):
        evaluate(model, make_dataset(tmp_path), progress=False)


def test_empty_sets_and_wrong_numbers(root, model):
    dataset = make_dataset(root)
    dataset.file_list = []
    with pytest.raises(UserError, match='the validation set has no images'):
        evaluate(model, dataset, progress=False)
    with pytest.raises(ValueError, match='batch_size is 0 and num_workers 0'):
        evaluate(model, dataset, batch_size=0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(('stream', 'asked', 'shown'), [(Terminal, True, True), (Terminal, False, False),
                                                        (io.StringIO, True, False)])
def test_progress_is_shown_on_a_terminal_when_asked(root, model, monkeypatch, capsys, stream, asked, shown):
    monkeypatch.setattr(sys, 'stderr', stream())
    evaluate(model, make_dataset(root), progress=asked)
    assert ('evaluate' in sys.stderr.getvalue()) == shown
    assert capsys.readouterr().out == ''


def test_scores_give_the_area_under_the_curve(root, model):
    from sklearn.metrics import roc_auc_score
    dataset = make_dataset(root)
    scores = ScoreHistogram(CLASSES)
    evaluate(model, dataset, batch_size=2, progress=False, scores=scores)
    probabilities, labels = [], []
    with evaluation_mode(model), paddle.no_grad():
        for item in (dataset[index] for index in range(len(dataset))):
            logits = model(paddle.to_tensor(item['img'][None]))[0]
            probabilities.append(paddle.nn.functional.softmax(logits, axis=1)[0].numpy().reshape(CLASSES, -1).T)
            labels.append(item['label'].reshape(-1))
    probabilities, labels = np.concatenate(probabilities), np.concatenate(labels)
    counted = labels != 255
    expected = [roc_auc_score(labels[counted] == index, probabilities[counted, index]) for index in range(CLASSES)]
    np.testing.assert_allclose(scores.class_auc, expected, atol=1e-3)


@pytest.mark.slow
def test_two_ranks_share_the_images_and_agree(root, model, tmp_path):
    here = Path(__file__).parent
    command = [sys.executable, '-m', 'paddle.distributed.launch', '--nproc_per_node', '2',
               '--log_dir', str(tmp_path / 'log'), str(here / 'distributed_evaluation.py'), str(root), str(tmp_path)]
    environment = {**os.environ, 'PYTHONPATH': f'{here.parent}{os.pathsep}{here}'}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    scores = ScoreHistogram(CLASSES)
    matrix = evaluate(model, make_dataset(root), progress=False, scores=scores)
    results = [json.loads((tmp_path / f'rank_{rank}.json').read_text()) for rank in range(2)]
    assert [result['images'] for result in results] == [3, 2]  # five images, none twice
    for result in results:
        assert result['counts'] == matrix.counts.tolist() and result['ignored'] == matrix.ignored_pixels
        assert result['auc'] == pytest.approx(scores.auc)
