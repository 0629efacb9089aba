"""The figures, against PaddleSeg's (mended) functions and scikit-learn as independent oracles."""
from __future__ import annotations

import json

import numpy as np
import pytest

from paddleseg_ext.errors import UserError
from paddleseg_ext.metrics import ConfusionMatrix, ScoreHistogram

CLASSES = 5


def random_pair(seed, *, absent=(), ignored=0.2, shape=(2, 1, 13, 17)):
    generator = np.random.default_rng(seed)
    present = [index for index in range(CLASSES) if index not in absent]
    label = generator.choice(present, size=shape)
    prediction = np.where(generator.random(shape) < 0.6, label, generator.choice(present, size=shape))
    label = np.where(generator.random(shape) < ignored, 255, label)
    return prediction.astype(np.int32), label.astype(np.uint8)


@pytest.fixture(scope='module')
def oracle():
    import paddle
    from paddleseg.utils import metrics

    from paddleseg_ext import compat
    compat.apply()

    def figures(prediction, label):
        areas = metrics.calculate_area(paddle.to_tensor(prediction), paddle.to_tensor(label.astype('int64')), CLASSES)
        accuracy, precision, recall = metrics.class_measurement(*areas)
        class_iou, miou = metrics.mean_iou(*areas)
        class_dice, mdice = metrics.dice(*areas)
        return {'accuracy': accuracy, 'class_precision': precision, 'class_recall': recall, 'class_iou': class_iou,
                'miou': miou, 'class_dice': class_dice, 'mdice': mdice, 'kappa': metrics.kappa(*areas)}
    return figures


@pytest.mark.parametrize('absent', [(), (2,), (0, 4)])
def test_every_figure_equals_paddlesegs(oracle, absent):
    prediction, label = random_pair(1, absent=absent)
    matrix = ConfusionMatrix(CLASSES)
    matrix.update(prediction, label)
    for name, value in oracle(prediction, label).items():
        np.testing.assert_allclose(getattr(matrix, name), value, rtol=0, atol=1e-12, err_msg=name)


def test_an_absent_class_counts_as_zero_in_the_mean():
    matrix = ConfusionMatrix(4)
    matrix.update(np.array([0, 1]), np.array([0, 1]))
    assert matrix.class_iou.tolist() == [1, 1, 0, 0]
    assert matrix.miou == 0.5


def test_counts_equal_scikit_learns():
    from sklearn.metrics import confusion_matrix
    prediction, label = random_pair(2)
    matrix = ConfusionMatrix(CLASSES)
    matrix.update(prediction[:, 0], label)  # a singleton axis less makes no difference
    counted = label != 255
    assert (matrix.counts == confusion_matrix(label[counted], prediction[counted], labels=range(CLASSES))).all()
    assert matrix.ignored_pixels == (~counted).sum()


def test_two_halves_merge_to_the_whole():
    prediction, label = random_pair(3)
    whole, first, second = (ConfusionMatrix(CLASSES) for _ in range(3))
    whole.update(prediction, label)
    first.update(prediction[:1], label[:1])
    second.update(prediction[1:], label[1:])
    first.merge(second)
    assert (first.counts == whole.counts).all() and first.ignored_pixels == whole.ignored_pixels
    with pytest.raises(ValueError, match='cannot merge 3 classes'):
        whole.merge(ConfusionMatrix(3))


def test_ids_out_of_range_are_named():
    matrix = ConfusionMatrix(3)
    with pytest.raises(UserError, match=r'label ids 7, 9 are outside the 3 classes 0–2 .* ignore_index 255'):
        matrix.update(np.zeros(4, int), np.array([0, 9, 7, 255]))
    with pytest.raises(UserError, match=r'the model predicted ids 3, outside the 3 classes'):
        matrix.update(np.array([3, 0]), np.array([0, 0]))
    matrix.update(np.array([3, 0]), np.array([255, 0]))  # where the label is ignored the prediction is free
    assert matrix.pixels == 1
    with pytest.raises(ValueError, match=r'prediction \[2\] and label \[3\] differ in shape'):
        matrix.update(np.zeros(2, int), np.zeros(3, int))


def test_negative_and_class_ignore_ids():
    matrix = ConfusionMatrix(2, ignore_index=-100)
    matrix.update(np.array([1, 0]), np.array([-100, 0]))
    assert matrix.counts.tolist() == [[1, 0], [0, 0]]
    matrix = ConfusionMatrix(2, ignore_index=0)
    matrix.update(np.array([1, 0]), np.array([0, 1]))
    assert matrix.counts.tolist() == [[0, 0], [1, 0]]


def test_nothing_counted_gives_zeros_not_nan():
    summary = ConfusionMatrix(2).summary(['a', 'b'])
    assert summary['miou'] == summary['accuracy'] == summary['kappa'] == 0
    only_one_class = ConfusionMatrix(2)
    only_one_class.update(np.zeros(3, int), np.zeros(3, int))
    assert only_one_class.kappa == 0


def test_summary_is_json_and_names_the_classes():
    matrix = ConfusionMatrix(CLASSES)
    matrix.update(*random_pair(4))
    summary = json.loads(json.dumps(matrix.summary(list('abcde')), allow_nan=False))
    assert [row['name'] for row in summary['classes']] == list('abcde')
    assert summary['classes'][1]['iou'] == matrix.class_iou[1]
    assert sum(row['share'] for row in summary['classes']) == pytest.approx(1)
    with pytest.raises(ValueError, match='2 class names for 5 classes'):
        matrix.summary(['a', 'b'])
    with pytest.raises(ValueError, match='at least 1 class'):
        ConfusionMatrix(0)


@pytest.mark.parametrize('classes', [2, 4])
def test_area_under_the_curve_equals_scikit_learns(classes):
    from sklearn.metrics import roc_auc_score
    generator = np.random.default_rng(5)
    label = generator.integers(0, classes, (2, 40, 50))
    logits = generator.normal(size=(2, classes, 40, 50)) * 3 + 2 * (label[:, None] == np.arange(classes)[:, None, None])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    histogram = ScoreHistogram(classes)
    for image in range(2):
        histogram.update(probabilities[image:image + 1].astype('float32'), label[image:image + 1])
    scores = probabilities.transpose(0, 2, 3, 1).reshape(-1, classes)
    expected = (roc_auc_score(label.reshape(-1), scores[:, 1]) if classes == 2 else
                roc_auc_score(label.reshape(-1), scores, multi_class='ovr'))
    assert histogram.auc == pytest.approx(expected, abs=2e-4)


def test_area_under_the_curve_at_its_limits():
    histogram = ScoreHistogram(2)
    histogram.update(np.array([[[[1.0, 0.0, 0.5]], [[0.0, 1.0, 0.5]]]], 'float32'), np.array([[[0, 1, 255]]]))
    assert histogram.auc == 1.0 and histogram.counts.sum() == 4
    assert np.isnan(ScoreHistogram(3).auc)
    with pytest.raises(ValueError, match='at least 2 classes'):
        ScoreHistogram(1)
