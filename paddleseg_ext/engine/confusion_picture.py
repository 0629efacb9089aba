"""The confusion matrix as a picture."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paddleseg_ext.files import atomic_path
from paddleseg_ext.metrics import ConfusionMatrix

__all__ = ['write_confusion_picture']

NUMBERED_CLASSES = 25
"""Up to so many classes the cells have numbers in them."""


def write_confusion_picture(matrix: ConfusionMatrix, names: Sequence[str], path: str | Path) -> None:
    """Draw the matrix, each row as shares (%) of the true class, with the classes' names; written atomically as PNG.

    Args:
        matrix: what :func:`engine.evaluate.evaluate` gave.
        names: by class.
        path: the file.
    """
    # NOTE: the object interface instead of pyplot, because a library must not change the program's backend or figures.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = matrix.num_classes
    rows = matrix.counts.sum(axis=1, keepdims=True)
    shares = 100.0 * matrix.counts / np.maximum(rows, 1)
    side = float(np.clip(1.6 + 0.52 * count, 4.5, 26.0))
    figure = Figure(figsize=(side + 0.9, side), dpi=120, layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    picture = axes.imshow(shares, cmap='Blues', vmin=0, vmax=100)
    bar = figure.colorbar(picture, ax=axes, fraction=0.046, pad=0.02)
    bar.set_label('share of the true class (%)')
    font = float(np.clip(9.5 - count / 40, 4.0, 9.0))
    labels = [_shortened(str(name)) for name in names]
    axes.set_xticks(range(count), labels, rotation=90, fontsize=font)
    axes.set_yticks(range(count), labels, fontsize=font)
    axes.set_xlabel('predicted')
    axes.set_ylabel('true')
    axes.set_title(f'mIoU {matrix.miou:.4f} · accuracy {matrix.accuracy:.4f}', fontsize=10)
    if count <= NUMBERED_CLASSES:
        _write_numbers(axes, shares, rows[:, 0] == 0)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format='png')


def _write_numbers(axes, shares: np.ndarray, is_absent: np.ndarray) -> None:
    for row, column in np.ndindex(*shares.shape):
        value = shares[row, column]
        if is_absent[row]:
            text = '–' if row == column else ''
        else:
            text = f'{value:.0f}' if value >= 0.5 else ''
        axes.text(column, row, text, ha='center', va='center', fontsize=7.5, color='white' if value > 55 else '#202124')


def _shortened(name: str) -> str:
    return name if len(name) <= 24 else f'{name[:23]}…'
