"""Segmentation figures from one confusion matrix. Plain numpy: no model, no Paddle.

Formulas and conventions are those of PaddleSeg 2.8.0 (``paddleseg/utils/metrics.py``): a figure whose denominator is
zero counts as 0, so a class that is neither in the labels nor predicted pulls the means down, as it does there.

Letters: C classes, [i, j] of the matrix = pixels of true class i predicted as class j.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paddleseg_ext.errors import UserError

__all__ = ['ConfusionMatrix', 'ScoreHistogram']


class ConfusionMatrix:
    """Counts of (true class, predicted class) over the pixels that are not ignored.

    Args:
        num_classes: C, at least 1.
        ignore_index: label id whose pixels are left out of everything.

    Raises:
        ValueError: ``num_classes`` below 1.
    """

    def __init__(self, num_classes: int, *, ignore_index: int = 255):
        if num_classes < 1:
            raise ValueError(f'num_classes is {num_classes}; a confusion matrix needs at least 1 class.')
        self.num_classes = int(num_classes)
        self.ignore_index = int(ignore_index)
        self.counts = np.zeros((self.num_classes, self.num_classes), dtype=np.int64)  # [true, predicted]
        self.ignored_pixels = 0

    def update(self, prediction: np.ndarray, label: np.ndarray) -> None:
        """Add one image or batch.

        Args:
            prediction: class ids, any integer type, any shape (``[N, 1, H, W]``, ``[N, H, W]``, ``[H, W]``).
            label: class ids or ``ignore_index``; the same number of dimensions and sizes, up to axes of length 1.

        Raises:
            UserError: label ids that are neither a class nor ``ignore_index``, or predictions that are no class.
            ValueError: shapes that differ.
        """
        prediction, label = np.asarray(prediction), np.asarray(label)
        if prediction.squeeze().shape != label.squeeze().shape:
            raise ValueError(f'prediction {list(prediction.shape)} and label {list(label.shape)} differ in shape; '
                             'they must cover the same pixels.')
        prediction, label = prediction.reshape(-1), label.reshape(-1)
        counted = label != self.ignore_index
        prediction, label = prediction[counted], label[counted]
        self._refuse_outside(label, 'label ids {ids} are outside the {count} classes 0–{last} and are not the '
                                    'ignore_index {ignore}. Correct the labels, num_classes or ignore_index.')
        self._refuse_outside(prediction, 'the model predicted ids {ids}, outside the {count} classes 0–{last} of the '
                                         'data set. Give the model and the data set the same num_classes.')
        pairs = label.astype(np.int64) * self.num_classes + prediction
        self.counts += np.bincount(pairs, minlength=self.counts.size).reshape(self.counts.shape)
        self.ignored_pixels += int(counted.size - label.size)

    def _refuse_outside(self, ids: np.ndarray, message: str) -> None:
        if ids.size == 0 or (ids.min() >= 0 and ids.max() < self.num_classes):
            return
        wrong = np.unique(ids[(ids < 0) | (ids >= self.num_classes)]).tolist()
        shown = ', '.join(map(str, wrong[:10])) + (f' … ({len(wrong)} ids)' if len(wrong) > 10 else '')
        raise UserError(message.format(ids=shown, count=self.num_classes, last=self.num_classes - 1,
                                       ignore=self.ignore_index))

    def merge(self, other: ConfusionMatrix) -> None:
        """Add another matrix's counts (of another rank, worker or part of the data) to this one.

        Raises:
            ValueError: the two have different classes or ignore ids.
        """
        if (other.num_classes, other.ignore_index) != (self.num_classes, self.ignore_index):
            raise ValueError(f'cannot merge {other.num_classes} classes (ignore_index {other.ignore_index}) into '
                             f'{self.num_classes} classes (ignore_index {self.ignore_index}); both must be equal.')
        self.counts += other.counts
        self.ignored_pixels += other.ignored_pixels

    @property
    def pixels(self) -> int:
        """Pixels counted, ignored ones left out."""
        return int(self.counts.sum())

    @property
    def intersect_area(self) -> np.ndarray:
        """Pixels predicted correctly, by class, ``[C]`` int64."""
        return np.diagonal(self.counts).copy()

    @property
    def prediction_area(self) -> np.ndarray:
        """Pixels predicted as each class, ``[C]`` int64."""
        return self.counts.sum(axis=0)

    @property
    def label_area(self) -> np.ndarray:
        """Pixels that are of each class, ``[C]`` int64."""
        return self.counts.sum(axis=1)

    @property
    def class_share(self) -> np.ndarray:
        """Share of each class in the labelled pixels, ``[C]``, 0–1."""
        return _ratio(self.label_area, self.pixels)

    @property
    def class_iou(self) -> np.ndarray:
        """Intersection over union by class, ``[C]``, 0–1."""
        return _ratio(self.intersect_area, self.prediction_area + self.label_area - self.intersect_area)

    @property
    def class_precision(self) -> np.ndarray:
        """Correct share of the pixels predicted as each class, ``[C]``, 0–1."""
        return _ratio(self.intersect_area, self.prediction_area)

    @property
    def class_recall(self) -> np.ndarray:
        """Correct share of the pixels that are of each class, ``[C]``, 0–1."""
        return _ratio(self.intersect_area, self.label_area)

    @property
    def class_dice(self) -> np.ndarray:
        """Dice (F1) by class, ``[C]``, 0–1."""
        return _ratio(2 * self.intersect_area, self.prediction_area + self.label_area)

    @property
    def miou(self) -> float:
        """Mean of :attr:`class_iou` over all C classes."""
        return float(self.class_iou.mean())

    @property
    def mdice(self) -> float:
        """Mean of :attr:`class_dice` over all C classes."""
        return float(self.class_dice.mean())

    @property
    def accuracy(self) -> float:
        """Correct share of all counted pixels; 0 without pixels."""
        return float(_ratio(self.intersect_area.sum(), self.pixels))

    @property
    def kappa(self) -> float:
        """Cohen's kappa, at most 1.

        0 where it is undefined (no pixels, or one class only in both prediction and label), where PaddleSeg's is nan.
        """
        total = float(self.pixels)
        if total == 0:
            return 0.0
        expected = float((self.prediction_area.astype(np.float64) * self.label_area).sum()) / (total * total)
        return float(_ratio(self.accuracy - expected, 1.0 - expected))

    def summary(self, names: Sequence[str]) -> dict[str, Any]:
        """All figures as plain numbers, ready for JSON.

        Args:
            names: C class names.

        Returns:
            ``{'miou', 'accuracy', 'kappa', 'mdice', 'pixels', 'ignored_pixels', 'classes': [{'id', 'name', 'iou',
            'precision', 'recall', 'dice', 'pixels', 'share'}, …]}``.

        Raises:
            ValueError: not C names.
        """
        if len(names) != self.num_classes:
            raise ValueError(f'{len(names)} class names for {self.num_classes} classes; give one name per class.')
        columns = {'iou': self.class_iou, 'precision': self.class_precision, 'recall': self.class_recall,
                   'dice': self.class_dice, 'pixels': self.label_area, 'share': self.class_share}
        classes = [{'id': index, 'name': str(name), **{key: column[index].item() for key, column in columns.items()}}
                   for index, name in enumerate(names)]
        return {'miou': self.miou, 'accuracy': self.accuracy, 'kappa': self.kappa, 'mdice': self.mdice,
                'pixels': self.pixels, 'ignored_pixels': self.ignored_pixels, 'classes': classes}


class ScoreHistogram:
    """Area under the ROC curve (one class against the rest) in bounded memory: histograms instead of all scores.

    Probabilities are sorted into `bins` equal steps of their log-odds between −`LIMIT` and `LIMIT`; scores within a
    step count as equal, so the area is off by at most half the share of pairs that fall into one step (about 1e-4).

    Args:
        num_classes: C, at least 2.
        ignore_index: label id whose pixels are left out.
        bins: steps.

    Raises:
        ValueError: ``num_classes`` below 2.
    """

    LIMIT = 20.0  # above, float32 probabilities are 1; below, they are under 2e-9

    def __init__(self, num_classes: int, *, ignore_index: int = 255, bins: int = 4096):
        if num_classes < 2:
            raise ValueError(f'num_classes is {num_classes}; a ROC curve needs at least 2 classes.')
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.bins = bins
        self.counts = np.zeros((num_classes, 2, bins), dtype=np.int64)  # [class, is of the class, step]

    def update(self, probabilities: np.ndarray, label: np.ndarray) -> None:
        """Add probabilities ``[N, C, H, W]`` (0–1) of the pixels of a label ``[N, H, W]``."""
        counted = label != self.ignore_index
        for index in range(self.num_classes):
            score = probabilities[:, index][counted].astype(np.float64)
            with np.errstate(divide='ignore'):
                odds = np.log(score) - np.log1p(-np.minimum(score, 1.0))
            step = (np.clip(odds / self.LIMIT, -1.0, 1.0) + 1.0) * 0.5 * (self.bins - 1)
            of_class = label[counted] == index
            cell = of_class.astype(np.int64) * self.bins + np.rint(step).astype(np.int64)
            self.counts[index] += np.bincount(cell, minlength=2 * self.bins).reshape(2, self.bins)

    @property
    def class_auc(self) -> np.ndarray:
        """Area by class, ``[C]``, 0–1; nan for a class without pixels, or with nothing else."""
        negative, positive = self.counts[:, 0].astype(np.float64), self.counts[:, 1].astype(np.float64)
        below = np.cumsum(negative, axis=1) - 0.5 * negative  # other pixels that score less; equal ones count half
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        return np.divide((positive * below).sum(axis=1), pairs, out=np.full(self.num_classes, np.nan), where=pairs > 0)

    @property
    def auc(self) -> float:
        """Two classes: the area of class 1; more: the mean over the classes that have one (nan when none has)."""
        areas = self.class_auc[1:] if self.num_classes == 2 else self.class_auc
        areas = areas[np.isfinite(areas)]
        return float(areas.mean()) if areas.size else float('nan')


def _ratio(numerator: Any, denominator: Any) -> np.ndarray:
    """``numerator / denominator`` in float64, 0 where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    return np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator != 0)
