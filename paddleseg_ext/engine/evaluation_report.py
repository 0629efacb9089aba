"""The figures of an evaluation as text and files."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paddleseg_ext.engine.confusion_picture import write_confusion_picture
from paddleseg_ext.files import atomic_write_text
from paddleseg_ext.metrics import ConfusionMatrix, ScoreHistogram

__all__ = ['class_table', 'headline', 'write_report']


def headline(matrix: ConfusionMatrix, scores: ScoreHistogram | None = None) -> str:
    """One line: mIoU, accuracy, kappa, dice, and the area under the ROC curve where it was counted."""
    figures = {'mIoU': matrix.miou, 'Acc': matrix.accuracy, 'Kappa': matrix.kappa, 'Dice': matrix.mdice}
    if scores is not None:
        figures['Auc_roc'] = scores.auc
    return '  '.join(f'{name} {value:.4f}' for name, value in figures.items())


def class_table(matrix: ConfusionMatrix, names: Sequence[str], scores: ScoreHistogram | None = None) -> str:
    """The figures by class, aligned; `share` is its part of the labelled pixels; classes without any are marked."""
    columns = ['IoU', 'precision', 'recall', 'dice', 'share'] + (['AUC'] if scores is not None else [])
    rows = []
    for row in matrix.summary(names)['classes']:
        values = [f'{row[key]:.4f}' for key in ('iou', 'precision', 'recall', 'dice')] + [f'{100 * row["share"]:.2f} %']
        if scores is not None:
            values.append(f'{scores.class_auc[row["id"]]:.4f}')
        rows.append([str(row['id']), row['name'], *values, '' if row['pixels'] else 'not in the labels'])
    return _aligned(['id', 'class', *columns, ''], rows)


def write_report(save_dir: str | Path, matrix: ConfusionMatrix, names: Sequence[str], *, settings: Mapping[str, Any],
                 images: int, scores: ScoreHistogram | None = None) -> list[Path]:
    """Write `metrics.json`, `confusion_matrix.json` and `confusion_matrix.png`, each atomically.

    Args:
        save_dir: the folder, made where it is missing.
        matrix, names, scores: as evaluated.
        settings: how it was evaluated, in plain values; kept in `metrics.json`.
        images: how many images the figures are over.

    Returns:
        the paths.
    """
    folder = Path(save_dir)
    folder.mkdir(parents=True, exist_ok=True)
    counts = {'class_names': [str(name) for name in names], 'rows': 'true class', 'columns': 'predicted class',
              'counts': matrix.counts.tolist()}
    figures = {'images': images, **matrix.summary(names)}
    if scores is not None:
        figures['auc_roc'] = _finite(scores.auc)
        for row in figures['classes']:
            row['auc_roc'] = _finite(scores.class_auc[row['id']])
    figures.update(confusion_matrix=counts['counts'], settings=dict(settings))
    atomic_write_text(folder / 'metrics.json', _json(figures))
    atomic_write_text(folder / 'confusion_matrix.json', _json(counts))
    write_confusion_picture(matrix, names, folder / 'confusion_matrix.png')
    return [folder / name for name in ('metrics.json', 'confusion_matrix.json', 'confusion_matrix.png')]


def _finite(value: float) -> float | None:
    return float(value) if value == value else None  # nan is no JSON


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + '\n'


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell: the class names to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [cell.ljust(width) if index in (1, len(row) - 1) else cell.rjust(width)
                 for index, (cell, width) in enumerate(zip(row, widths))]
        return '  '.join(cells).rstrip()
    return '\n'.join([line(header), *map(line, rows)])
